// franz-go.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var bootstrap = os.Args[1]

func send(ctx context.Context, topic string, count int, options ...kgo.Opt) error {
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(bootstrap), kgo.AllowAutoTopicCreation())...)
	if err != nil {
		return err
	}
	defer client.Close()
	var failed error
	for number := 0; number < count; number++ {
		record := &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(fmt.Sprintf("v%d", number))}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	return failed
}

func read(ctx context.Context, topic string, count int, options ...kgo.Opt) error {
	start := kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(bootstrap), kgo.ConsumeTopics(topic), start)...)
	if err != nil {
		return err
	}
	defer client.Close()
	found := 0
	for found < count && ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(_ string, _ int32, err error) { fmt.Fprintln(os.Stderr, err) })
		fetches.EachRecord(func(record *kgo.Record) {
			if string(record.Value) == fmt.Sprintf("v%d", found) {
				found++
			}
		})
	}
	if found != count {
		return fmt.Errorf("found %d records in order, not %d", found, count)
	}
	if name, _ := client.GroupMetadata(); name == "" {
		return nil
	}
	return client.CommitUncommittedOffsets(ctx)
}

func produce(ctx context.Context) error {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for name, codec := range codecs {
		plain := []kgo.Opt{kgo.ProducerBatchCompression(codec), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())}
		if err := send(ctx, "f-"+name, 200, plain...); err != nil {
			return err
		}
		if err := read(ctx, "f-"+name, 200); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	input := bufio.NewReader(os.Stdin)
	scenarios := []struct {
		name string
		work func(context.Context) error
	}{
		{"produce and read", produce},
		{"idempotent", func(ctx context.Context) error {
			if err := send(ctx, "f-idempotent", 1000); err != nil {
				return err
			}
			return read(ctx, "f-idempotent", 1000)
		}},
		{"group", func(ctx context.Context) error {
			if err := send(ctx, "f-group", 500); err != nil {
				return err
			}
			return read(ctx, "f-group", 500, kgo.ConsumerGroup("f-group"))
		}},
		{"restart", func(ctx context.Context) error {
			if err := send(ctx, "f-restart", 200); err != nil {
				return err
			}
			fmt.Println("restart")
			if _, err := input.ReadString('\n'); err != nil {
				return err
			}
			return read(ctx, "f-restart", 200)
		}},
	}
	for _, scenario := range scenarios {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		if err := scenario.work(ctx); err != nil {
			fmt.Printf("failed %s: %v\n", scenario.name, err)
		} else {
			fmt.Printf("ok %s\n", scenario.name)
		}
		cancel()
	}
}
