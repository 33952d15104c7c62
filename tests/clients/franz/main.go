// franz-go.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	bootstrap = os.Args[1]
	input     = bufio.NewReader(os.Stdin)
)

func connect(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(bootstrap), kgo.AllowAutoTopicCreation())...)
}

func restart() error {
	fmt.Println("restart")
	_, err := input.ReadString('\n')
	return err
}

// sendWith produces v<first> and on, calls `between` in the middle, and waits until each is acknowledged.
func sendWith(ctx context.Context, client *kgo.Client, topic string, first, last int, between func() error) error {
	failed := make(chan error, last-first)
	for number := first; number < last; number++ {
		record := kgo.KeySliceRecord([]byte(fmt.Sprintf("k%d", number%5)), []byte(fmt.Sprintf("v%d", number)))
		record.Topic = topic
		record.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("x")}}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			if err != nil {
				failed <- err
			}
		})
		if number == (first+last)/2 && between != nil {
			if err := between(); err != nil {
				return err
			}
		}
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func send(ctx context.Context, topic string, first, last int, options ...kgo.Opt) error {
	client, err := connect(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	return sendWith(ctx, client, topic, first, last, nil)
}

// read checks the values of partition 0: v<first> and on, from an offset on.
func read(ctx context.Context, topic string, offset kgo.Offset, first, last int, options ...kgo.Opt) error {
	place := kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: offset}})
	client, err := connect(append(options, place)...)
	if err != nil {
		return err
	}
	defer client.Close()
	var wrong error
	for next := first; next < last && ctx.Err() == nil && wrong == nil; {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(_ string, _ int32, err error) { fmt.Fprintln(os.Stderr, err) })
		fetches.EachRecord(func(record *kgo.Record) {
			isHeader := len(record.Headers) == 1 && string(record.Headers[0].Value) == "x"
			if wrong == nil && (string(record.Value) != fmt.Sprintf("v%d", next) || !isHeader) {
				wrong = fmt.Errorf("found %s at offset %d, not v%d", record.Value, record.Offset, next)
			}
			next++
		})
	}
	if wrong == nil {
		wrong = ctx.Err()
	}
	return wrong
}

var start = kgo.NewOffset().AtStart()

func produce(ctx context.Context) error {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	levels := map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()}
	for name, codec := range codecs {
		for level, acks := range levels {
			plain := []kgo.Opt{kgo.ProducerBatchCompression(codec), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(acks)}
			topic := "f-" + name + "-" + level
			if err := send(ctx, topic, 0, 200, plain...); err != nil {
				return fmt.Errorf("%s: %w", topic, err)
			}
			if err := read(ctx, topic, start, 0, 200); err != nil {
				return fmt.Errorf("%s: %w", topic, err)
			}
		}
	}
	return nil
}

func idempotent(ctx context.Context) error {
	if err := send(ctx, "f-idempotent", 0, 5000, kgo.MaxBufferedRecords(100)); err != nil {
		return err
	}
	return read(ctx, "f-idempotent", start, 0, 5000)
}

func transaction(ctx context.Context) error {
	client, err := connect(kgo.TransactionalID("franz"))
	if err != nil {
		return err
	}
	defer client.Close()
	// The middle one is aborted: what is sent again after it follows the first in order.
	for round, first := range []int{0, 50, 50} {
		if err := client.BeginTransaction(); err != nil {
			return err
		}
		if err := sendWith(ctx, client, "f-transaction", first, first+50, nil); err != nil {
			return err
		}
		if err := client.EndTransaction(ctx, kgo.TransactionEndTry(round != 1)); err != nil {
			return err
		}
	}
	if err := read(ctx, "f-transaction", start, 0, 100, kgo.FetchIsolationLevel(kgo.ReadCommitted())); err != nil {
		return err
	}
	return transform(ctx)
}

// transform moves what was committed to another topic, with the group's offsets in the transaction.
func transform(ctx context.Context) error {
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(bootstrap), kgo.AllowAutoTopicCreation(), kgo.TransactionalID("franz-transform"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumerGroup("f-transform"),
		kgo.ConsumeTopics("f-transaction"), kgo.ConsumeResetOffset(start), kgo.RequireStableFetchOffsets(),
	)
	if err != nil {
		return err
	}
	defer session.Close()
	for moved := 0; moved < 100; {
		fetches := session.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		if fetches.NumRecords() == 0 {
			continue
		}
		if err := session.Begin(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			copied := &kgo.Record{Topic: "f-output", Key: record.Key, Value: record.Value, Headers: record.Headers}
			session.Produce(ctx, copied, nil)
		})
		committed, err := session.End(ctx, kgo.TryCommit)
		if err != nil {
			return err
		}
		if committed {
			moved += fetches.NumRecords()
		}
	}
	return read(ctx, "f-output", start, 0, 100, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}

func byTime(ctx context.Context) error {
	base := time.Now().Add(-100 * time.Second)
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	for number := 0; number < 100; number++ {
		record := kgo.StringRecord(fmt.Sprintf("v%d", number))
		record.Topic = "f-time"
		record.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("x")}}
		record.Timestamp = base.Add(time.Duration(number) * 10 * time.Millisecond)
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			return err
		}
	}
	moment := base.UnixMilli() + 501
	listed, err := kadm.NewClient(client).ListOffsetsAfterMilli(ctx, moment, "f-time")
	if err != nil {
		return err
	}
	if found, _ := listed.Lookup("f-time", 0); found.Offset != 51 {
		return fmt.Errorf("found offset %d, not 51", found.Offset)
	}
	return read(ctx, "f-time", kgo.NewOffset().AfterMilli(moment), 51, 100)
}

func administer(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	kept := "1000000"
	if _, err := admin.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": &kept}, "f-admin"); err != nil {
		return err
	}
	grown, err := admin.UpdatePartitions(ctx, 4, "f-admin")
	if err != nil || grown.Error() != nil {
		return fmt.Errorf("partitions: %v, %v", err, grown.Error())
	}
	topics, err := admin.ListTopics(ctx, "f-admin")
	if err != nil || len(topics["f-admin"].Partitions) != 4 {
		return fmt.Errorf("found %v, not 4 partitions: %v", topics, err)
	}
	resources, err := admin.DescribeTopicConfigs(ctx, "f-admin")
	if err != nil {
		return err
	}
	found := ""
	for _, config := range resources[0].Configs {
		if config.Key == "retention.ms" {
			found = config.MaybeValue()
		}
	}
	if found != kept {
		return fmt.Errorf("retention.ms is %q", found)
	}
	if err := send(ctx, "f-admin", 0, 100); err != nil {
		return err
	}
	if _, err := admin.ListGroups(ctx); err != nil {
		return err
	}
	if _, err := admin.DescribeAllLogDirs(ctx, nil); err != nil {
		return err
	}
	gone, err := admin.DeleteTopics(ctx, "f-admin")
	if err != nil {
		return err
	}
	return gone.Error()
}

// A member of a group that polls in the background, and how many partitions it has.
type member struct {
	client *kgo.Client
	has    *atomic.Int64
}

func join(ctx context.Context, group string, options ...kgo.Opt) (*member, error) {
	has := new(atomic.Int64)
	change := func(sign int64) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			has.Add(sign * int64(len(topics[group])))
		}
	}
	client, err := connect(append(options,
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(group), kgo.ConsumeResetOffset(start),
		kgo.OnPartitionsAssigned(change(1)), kgo.OnPartitionsRevoked(change(-1)), kgo.OnPartitionsLost(change(-1)),
		kgo.AutoCommitInterval(100*time.Millisecond),
	)...)
	if err != nil {
		return nil, err
	}
	go func() {
		for !client.PollFetches(ctx).IsClientClosed() && ctx.Err() == nil {
		}
	}()
	return &member{client, has}, nil
}

func group(ctx context.Context, name string, options ...kgo.Opt) error {
	client, err := connect(kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, 4, 1, nil, name); err != nil {
		return err
	}
	if err := sendWith(ctx, client, name, 0, 400, nil); err != nil {
		return err
	}
	committed := func(wanted int64) func() bool {
		return func() bool {
			offsets, err := admin.FetchOffsets(ctx, name)
			sum := int64(0)
			offsets.Each(func(offset kadm.OffsetResponse) { sum += max(offset.At, 0) })
			return err == nil && sum == wanted
		}
	}
	first, err := join(ctx, name, options...)
	if err != nil {
		return err
	}
	defer first.client.Close()
	if err := until("400 records committed", committed(400)); err != nil {
		return err
	}
	second, err := join(ctx, name, options...)
	if err != nil {
		return err
	}
	defer second.client.Close()
	if err := until("two partitions each", func() bool { return first.has.Load() == 2 && second.has.Load() == 2 }); err != nil {
		return err
	}
	first.client.Close()
	if err := until("four partitions", func() bool { return second.has.Load() == 4 }); err != nil {
		return err
	}
	if err := sendWith(ctx, client, name, 400, 500, nil); err != nil {
		return err
	}
	return until("500 records committed", committed(500))
}

func until(what string, done func() bool) error {
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if done() {
			return nil
		}
	}
	return fmt.Errorf("no %s in time", what)
}

func throughARestart(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	reader, err := connect(kgo.ConsumerGroup("f-restart"), kgo.ConsumeTopics("f-restart"), kgo.ConsumeResetOffset(start))
	if err != nil {
		return err
	}
	defer reader.Close()
	if err := sendWith(ctx, client, "f-restart", 0, 2000, restart); err != nil {
		return err
	}
	if err := read(ctx, "f-restart", start, 0, 2000); err != nil {
		return err
	}
	for seen := 0; seen < 2000 && ctx.Err() == nil; {
		seen += reader.PollFetches(ctx).NumRecords()
	}
	return reader.CommitUncommittedOffsets(ctx)
}

func main() {
	for _, scenario := range []struct {
		name string
		work func(context.Context) error
	}{
		{"produce and read", produce}, {"idempotent", idempotent}, {"transaction", transaction},
		{"seek by time", byTime}, {"admin", administer},
		{"group", func(ctx context.Context) error {
			if err := group(ctx, "f-group"); err != nil {
				return err
			}
			return group(ctx, "f-range", kgo.Balancers(kgo.RangeBalancer()))
		}},
		{"new group protocol", func(ctx context.Context) error {
			return group(ctx, "f-consumer", kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
		}},
		{"restart", throughARestart},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
		if err := scenario.work(ctx); err != nil {
			fmt.Printf("failed %s: %v\n", scenario.name, err)
		} else {
			fmt.Printf("ok %s\n", scenario.name)
		}
		cancel()
	}
}
