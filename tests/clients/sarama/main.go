// sarama.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

var (
	bootstrap = []string{os.Args[1]}
	input     = bufio.NewReader(os.Stdin)
)

func settings() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Return.Successes = true
	// Its own default is the leader's memory, after which a record need not be readable yet.
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	return config
}

func exactlyOnce() *sarama.Config {
	config := settings()
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	return config
}

func message(topic string, number int) *sarama.ProducerMessage {
	return &sarama.ProducerMessage{
		Topic: topic, Key: sarama.StringEncoder(fmt.Sprintf("k%d", number%5)),
		Value:   sarama.StringEncoder(fmt.Sprintf("v%d", number)),
		Headers: []sarama.RecordHeader{{Key: []byte("h"), Value: []byte("x")}},
	}
}

func send(topic string, first, last int, config *sarama.Config) error {
	producer, err := sarama.NewSyncProducer(bootstrap, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for number := first; number < last; number++ {
		messages = append(messages, message(topic, number))
	}
	return producer.SendMessages(messages)
}

// read checks the values of partition 0 from an offset on: v0, v1 and so on, starting with `first`.
func read(topic string, offset int64, first, last int, config *sarama.Config) error {
	consumer, err := sarama.NewConsumer(bootstrap, config)
	if err != nil {
		return err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(topic, 0, offset)
	if err != nil {
		return err
	}
	defer partition.Close()
	for number := first; number < last; number++ {
		select {
		case found := <-partition.Messages():
			if string(found.Value) != fmt.Sprintf("v%d", number) {
				return fmt.Errorf("found %s at offset %d, not v%d", found.Value, found.Offset, number)
			}
			if len(found.Headers) > 0 && string(found.Headers[0].Value) != "x" {
				return fmt.Errorf("a header is %s", found.Headers[0].Value)
			}
		case <-time.After(60 * time.Second):
			return fmt.Errorf("%s: no v%d", topic, number)
		}
	}
	return nil
}

func produce() error {
	codecs := map[string]sarama.CompressionCodec{
		"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
		"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	}
	for name, codec := range codecs {
		for _, acks := range []sarama.RequiredAcks{sarama.NoResponse, sarama.WaitForLocal, sarama.WaitForAll} {
			config := settings()
			config.Producer.Compression = codec
			config.Producer.RequiredAcks = acks
			topic := fmt.Sprintf("s-%s-%d", name, acks)
			if err := send(topic, 0, 200, config); err != nil {
				return fmt.Errorf("%s: %w", topic, err)
			}
			if err := read(topic, 0, 0, 200, settings()); err != nil {
				return fmt.Errorf("%s: %w", topic, err)
			}
		}
	}
	return nil
}

func idempotent() error {
	for part := 0; part < 10; part++ {
		if err := send("s-idempotent", part*200, part*200+200, exactlyOnce()); err != nil {
			return err
		}
	}
	return read("s-idempotent", 0, 0, 2000, settings())
}

func transaction() error {
	config := exactlyOnce()
	config.Producer.Transaction.ID = "sarama"
	producer, err := sarama.NewSyncProducer(bootstrap, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	for round := 0; round < 3; round++ {
		if err := producer.BeginTxn(); err != nil {
			return err
		}
		// The middle one is aborted: what is sent again after it follows the first in order.
		first := []int{0, 50, 50}[round]
		for number := first; number < first+50; number++ {
			if _, _, err := producer.SendMessage(message("s-transaction", number)); err != nil {
				return err
			}
		}
		if round == 1 {
			err = producer.AbortTxn()
		} else {
			if round == 2 {
				offsets := map[string][]*sarama.PartitionOffsetMetadata{"s-transaction": {{Partition: 0, Offset: 42}}}
				if err := producer.AddOffsetsToTxn(offsets, "s-transform"); err != nil {
					return err
				}
			}
			err = producer.CommitTxn()
		}
		if err != nil {
			return err
		}
	}
	committed := settings()
	committed.Consumer.IsolationLevel = sarama.ReadCommitted
	if err := read("s-transaction", 0, 0, 100, committed); err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdmin(bootstrap, settings())
	if err != nil {
		return err
	}
	defer admin.Close()
	offsets, err := admin.ListConsumerGroupOffsets("s-transform", map[string][]int32{"s-transaction": {0}})
	if err != nil {
		return err
	}
	if block := offsets.GetBlock("s-transaction", 0); block == nil || block.Offset != 42 {
		return fmt.Errorf("the transaction's offset is %v, not 42", block)
	}
	return nil
}

func byTime() error {
	base := time.Now().Add(-100 * time.Second).Truncate(time.Millisecond)
	producer, err := sarama.NewSyncProducer(bootstrap, settings())
	if err != nil {
		return err
	}
	defer producer.Close()
	for number := 0; number < 100; number++ {
		one := message("s-time", number)
		one.Timestamp = base.Add(time.Duration(number) * 10 * time.Millisecond)
		if _, _, err := producer.SendMessage(one); err != nil {
			return err
		}
	}
	client, err := sarama.NewClient(bootstrap, settings())
	if err != nil {
		return err
	}
	defer client.Close()
	offset, err := client.GetOffset("s-time", 0, base.UnixMilli()+501)
	if err != nil {
		return err
	}
	if offset != 51 {
		return fmt.Errorf("found offset %d, not 51", offset)
	}
	return read("s-time", offset, 51, 100, settings())
}

func administer() error {
	admin, err := sarama.NewClusterAdmin(bootstrap, settings())
	if err != nil {
		return err
	}
	defer admin.Close()
	kept := "1000000"
	detail := &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &kept}}
	if err := admin.CreateTopic("s-admin", detail, false); err != nil {
		return err
	}
	if err := admin.CreatePartitions("s-admin", 4, nil, false); err != nil {
		return err
	}
	topics, err := admin.DescribeTopics([]string{"s-admin"})
	if err != nil {
		return err
	}
	if len(topics[0].Partitions) != 4 {
		return fmt.Errorf("found %d partitions, not 4", len(topics[0].Partitions))
	}
	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: "s-admin", ConfigNames: []string{"retention.ms"}})
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0].Value != kept {
		return fmt.Errorf("found %v, not %s", entries, kept)
	}
	if err := send("s-admin", 0, 100, settings()); err != nil {
		return err
	}
	if err := admin.DeleteRecords("s-admin", map[int32]int64{0: -1}); err != nil {
		return err
	}
	if _, err := admin.ListConsumerGroups(); err != nil {
		return err
	}
	return admin.DeleteTopic("s-admin")
}

// A member of a group: what it reads, and how many partitions it has.
type member struct {
	lock    sync.Mutex
	claims  int
	records chan *sarama.ConsumerMessage
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.claims = 0
	for _, partitions := range session.Claims() {
		m.claims += len(partitions)
	}
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case found, more := <-claim.Messages():
			if !more {
				return nil
			}
			session.MarkMessage(found, "")
			m.records <- found
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *member) has(partitions int) func() bool {
	return func() bool {
		m.lock.Lock()
		defer m.lock.Unlock()
		return m.claims == partitions
	}
}

func join(topic string) (*member, func(), error) {
	group, err := sarama.NewConsumerGroup(bootstrap, topic, settings())
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	joined := &member{records: make(chan *sarama.ConsumerMessage, 10000)}
	go func() {
		for ctx.Err() == nil {
			if err := group.Consume(ctx, []string{topic}, joined); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	return joined, func() { cancel(); group.Close() }, nil
}

func until(what string, done func() bool) error {
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if done() {
			return nil
		}
	}
	return fmt.Errorf("no %s in time", what)
}

func group() error {
	admin, err := sarama.NewClusterAdmin(bootstrap, settings())
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := admin.CreateTopic("s-group", &sarama.TopicDetail{NumPartitions: 4, ReplicationFactor: 1}, false); err != nil {
		return err
	}
	if err := send("s-group", 0, 400, settings()); err != nil {
		return err
	}
	first, leave, err := join("s-group")
	if err != nil {
		return err
	}
	defer leave()
	if err := until("400 records", func() bool { return len(first.records) == 400 }); err != nil {
		return err
	}
	second, leaveToo, err := join("s-group")
	if err != nil {
		return err
	}
	if err := until("two partitions each", func() bool { return first.has(2)() && second.has(2)() }); err != nil {
		return err
	}
	leaveToo()
	if err := until("four partitions", first.has(4)); err != nil {
		return err
	}
	if err := send("s-group", 400, 500, settings()); err != nil {
		return err
	}
	return until("500 records and none twice", func() bool { return len(first.records)+len(second.records) == 500 })
}

func throughARestart() error {
	joined, leave, err := join("s-restart")
	if err != nil {
		return err
	}
	defer leave()
	config := exactlyOnce()
	config.Producer.Retry.Max = 100
	for part := 0; part < 10; part++ {
		if part == 5 {
			fmt.Println("restart")
			if _, err := input.ReadString('\n'); err != nil {
				return err
			}
		}
		if err := send("s-restart", part*100, part*100+100, config); err != nil {
			return err
		}
	}
	if err := read("s-restart", 0, 0, 1000, settings()); err != nil {
		return err
	}
	return until("1000 records in the group", func() bool { return len(joined.records) >= 1000 })
}

func main() {
	for _, scenario := range []struct {
		name string
		work func() error
	}{
		{"produce and read", produce}, {"idempotent", idempotent}, {"transaction", transaction},
		{"seek by time", byTime}, {"admin", administer}, {"group", group}, {"restart", throughARestart},
	} {
		if err := scenario.work(); err != nil {
			fmt.Printf("failed %s: %v\n", scenario.name, err)
		} else {
			fmt.Printf("ok %s\n", scenario.name)
		}
	}
	fmt.Println("cannot new group protocol: it has none")
}
