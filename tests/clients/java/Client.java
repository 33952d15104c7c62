// kafka-clients: the same program for every version, compiled against each.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Client {
    interface Work {
        void run() throws Exception;
    }

    static String bootstrap;
    static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in));

    static Map<String, Object> settings(String... pairs) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", bootstrap));
        for (int index = 0; index < pairs.length; index += 2) all.put(pairs[index], pairs[index + 1]);
        return all;
    }

    static KafkaProducer<String, String> producer(String... pairs) {
        return new KafkaProducer<>(settings(pairs), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String... pairs) {
        Map<String, Object> all = settings("enable.auto.commit", "false", "auto.offset.reset", "earliest");
        for (int index = 0; index < pairs.length; index += 2) all.put(pairs[index], pairs[index + 1]);
        return new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
    }

    static void check(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) throw new AssertionError("found " + found + ", not " + wanted);
    }

    static void restart() throws Exception {
        System.out.println("restart");
        INPUT.readLine();
    }

    static void make(String topic, int partitions) throws Exception {
        try (Admin admin = Admin.create(settings())) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        }
    }

    static void send(String topic, int count, String... pairs) throws Exception {
        try (KafkaProducer<String, String> producer = producer(pairs)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int number = 0; number < count; number++) {
                ProducerRecord<String, String> record = new ProducerRecord<>(topic, "k" + number % 5, "v" + number);
                record.headers().add("h", "x".getBytes(StandardCharsets.UTF_8));
                sent.add(producer.send(record));
            }
            producer.flush();
            for (Future<RecordMetadata> one : sent) one.get();
        }
    }

    static List<ConsumerRecord<String, String>> read(String topic, int partitions, int count, String... pairs) {
        List<ConsumerRecord<String, String>> found = new ArrayList<>();
        try (Consumer<String, String> consumer = consumer(pairs)) {
            List<TopicPartition> all = new ArrayList<>();
            for (int index = 0; index < partitions; index++) all.add(new TopicPartition(topic, index));
            consumer.assign(all);
            consumer.seekToBeginning(all);
            long end = System.currentTimeMillis() + 60_000;
            while (found.size() < count && System.currentTimeMillis() < end) {
                consumer.poll(Duration.ofMillis(500)).forEach(found::add);
            }
            // Nothing may follow.
            consumer.poll(Duration.ofMillis(300)).forEach(found::add);
        }
        return found;
    }

    static List<String> values(Collection<ConsumerRecord<String, String>> records) {
        return records.stream().map(ConsumerRecord::value).collect(Collectors.toList());
    }

    static List<String> numbered(String prefix, int from, int to) {
        List<String> all = new ArrayList<>();
        for (int number = from; number < to; number++) all.add(prefix + number);
        return all;
    }

    static void produce() throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            for (String acks : List.of("0", "1", "all")) {
                String topic = "java-" + codec + "-" + acks;
                send(topic, 200, "compression.type", codec, "acks", acks, "enable.idempotence", "false");
                List<ConsumerRecord<String, String>> found = read(topic, 1, 200);
                check(values(found), numbered("v", 0, 200));
                check(found.get(7).key(), "k2");
                check(new String(found.get(7).headers().lastHeader("h").value(), StandardCharsets.UTF_8), "x");
            }
        }
    }

    static void idempotent() throws Exception {
        send("java-idempotent", 5000, "batch.size", "400", "max.in.flight.requests.per.connection", "5");
        List<ConsumerRecord<String, String>> found = read("java-idempotent", 1, 5000);
        check(values(found), numbered("v", 0, 5000));
        check(found.get(4999).offset(), 4999L);
    }

    static void sendAll(KafkaProducer<String, String> producer, String topic, String prefix, int count) throws Exception {
        for (int number = 0; number < count; number++) {
            producer.send(new ProducerRecord<>(topic, number % 2, null, prefix + number));
        }
        producer.flush();
    }

    static void transaction() throws Exception {
        make("java-transaction", 2);
        try (KafkaProducer<String, String> first = producer("transactional.id", "java")) {
            first.initTransactions();
            for (String round : List.of("a", "b", "c")) {
                first.beginTransaction();
                sendAll(first, "java-transaction", round, 20);
                if (round.equals("b")) first.abortTransaction();
                else first.commitTransaction();
            }
            List<String> committed = numbered("a", 0, 20);
            committed.addAll(numbered("c", 0, 20));
            check(new HashSet<>(values(read("java-transaction", 2, 40, "isolation.level", "read_committed"))), new HashSet<>(committed));
            check(read("java-transaction", 2, 60).size(), 60);
            transform();
            fence(first);
        }
        transactionThroughARestart();
    }

    static void transform() throws Exception {
        send("java-input", 50);
        TopicPartition input = new TopicPartition("java-input", 0);
        make("java-output", 2);
        try (KafkaProducer<String, String> producer = producer("transactional.id", "java-transform");
                KafkaConsumer<String, String> consumer = consumer("group.id", "java-transform", "isolation.level", "read_committed")) {
            producer.initTransactions();
            consumer.subscribe(List.of("java-input"));
            int seen = 0;
            for (long end = System.currentTimeMillis() + 60_000; seen < 50 && System.currentTimeMillis() < end;) {
                List<ConsumerRecord<String, String>> batch = new ArrayList<>();
                consumer.poll(Duration.ofMillis(500)).forEach(batch::add);
                if (batch.isEmpty()) continue;
                producer.beginTransaction();
                for (ConsumerRecord<String, String> record : batch) {
                    producer.send(new ProducerRecord<>("java-output", null, record.value()));
                }
                long next = batch.get(batch.size() - 1).offset() + 1;
                producer.sendOffsetsToTransaction(Map.of(input, new OffsetAndMetadata(next)), consumer.groupMetadata());
                producer.commitTransaction();
                seen += batch.size();
            }
            check(consumer.committed(Set.of(input)).get(input).offset(), 50L);
        }
        check(read("java-output", 2, 50, "isolation.level", "read_committed").size(), 50);
    }

    static void fence(KafkaProducer<String, String> first) throws Exception {
        first.beginTransaction();
        first.send(new ProducerRecord<>("java-transaction", 0, null, "fenced")).get();
        try (KafkaProducer<String, String> second = producer("transactional.id", "java")) {
            second.initTransactions();
            try {
                first.commitTransaction();
                throw new AssertionError("a fenced producer committed");
            } catch (ProducerFencedException | InvalidProducerEpochException expected) {
                check(read("java-transaction", 2, 40, "isolation.level", "read_committed").size(), 40);
            }
        }
    }

    static void transactionThroughARestart() throws Exception {
        make("java-again", 2);
        try (KafkaProducer<String, String> producer = producer("transactional.id", "java-again")) {
            producer.initTransactions();
            producer.beginTransaction();
            sendAll(producer, "java-again", "a", 20);
            restart();
            sendAll(producer, "java-again", "b", 20);
            try {
                producer.commitTransaction();
            } catch (KafkaException error) {
                // A coordinator may abort what was open when it died, if it says so: then nothing of it shows.
                producer.abortTransaction();
                producer.beginTransaction();
                sendAll(producer, "java-again", "a", 20);
                sendAll(producer, "java-again", "b", 20);
                producer.commitTransaction();
            }
        }
        check(read("java-again", 2, 40, "isolation.level", "read_committed").size(), 40);
    }

    static void byTime() throws Exception {
        long base = System.currentTimeMillis() - 100_000;
        try (KafkaProducer<String, String> producer = producer()) {
            for (int number = 0; number < 100; number++) {
                producer.send(new ProducerRecord<>("java-time", 0, base + number * 10, null, "v" + number));
            }
        }
        TopicPartition partition = new TopicPartition("java-time", 0);
        try (KafkaConsumer<String, String> consumer = consumer()) {
            long offset = consumer.offsetsForTimes(Map.of(partition, base + 501)).get(partition).offset();
            check(offset, 51L);
            check(consumer.endOffsets(Set.of(partition)).get(partition), 100L);
            consumer.assign(Set.of(partition));
            consumer.seek(partition, offset);
            long end = System.currentTimeMillis() + 30_000;
            List<ConsumerRecord<String, String>> found = new ArrayList<>();
            while (found.isEmpty() && System.currentTimeMillis() < end) {
                consumer.poll(Duration.ofMillis(500)).forEach(found::add);
            }
            check(found.get(0).value(), "v51");
        }
    }

    static void admin() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, "java-admin");
        try (Admin admin = Admin.create(settings())) {
            NewTopic topic = new NewTopic("java-admin", 3, (short) 1).configs(Map.of("retention.ms", "1000000"));
            admin.createTopics(List.of(topic)).all().get();
            try {
                admin.createTopics(List.of(topic)).all().get();
                throw new AssertionError("made twice");
            } catch (ExecutionException error) {
                check(error.getCause().getClass(), TopicExistsException.class);
            }
            check(admin.describeConfigs(Set.of(resource)).all().get().get(resource).get("retention.ms").value(), "1000000");
            AlterConfigOp change = new AlterConfigOp(new ConfigEntry("retention.ms", "2000000"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(change))).all().get();
            check(admin.describeConfigs(Set.of(resource)).all().get().get(resource).get("retention.ms").value(), "2000000");
            admin.createPartitions(Map.of("java-admin", NewPartitions.increaseTo(4))).all().get();
            check(admin.describeTopics(Set.of("java-admin")).allTopicNames().get().get("java-admin").partitions().size(), 4);
            check(admin.listTopics().names().get().contains("java-admin"), true);
            check(admin.describeCluster().nodes().get().isEmpty(), false);
            List<Integer> nodes = admin.describeCluster().nodes().get().stream().map(node -> node.id()).toList();
            check(admin.describeLogDirs(nodes).allDescriptions().get().size(), nodes.size());
            send("java-admin", 400);
            TopicPartition partition = new TopicPartition("java-admin", 0);
            long end = admin.listOffsets(Map.of(partition, OffsetSpec.latest())).partitionResult(partition).get().offset();
            admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(end))).all().get();
            check(admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).partitionResult(partition).get().offset(), end);
            groups(admin, partition);
            admin.deleteTopics(Set.of("java-admin")).all().get();
        }
    }

    static void groups(Admin admin, TopicPartition partition) throws Exception {
        admin.alterConsumerGroupOffsets("java-admin", Map.of(partition, new OffsetAndMetadata(7))).all().get();
        check(admin.listConsumerGroupOffsets("java-admin").partitionsToOffsetAndMetadata().get().get(partition).offset(), 7L);
        Set<String> names = admin.listConsumerGroups().all().get().stream().map(group -> group.groupId()).collect(Collectors.toSet());
        check(names.contains("java-admin"), true);
        check(admin.describeConsumerGroups(Set.of("java-admin")).all().get().get("java-admin").members().size(), 0);
        admin.deleteConsumerGroups(Set.of("java-admin")).all().get();
    }

    static void group(String name, String... pairs) throws Exception {
        make(name, 4);
        send(name, 1000);
        List<String> all = new ArrayList<>(List.of(pairs));
        all.addAll(List.of("group.id", name));
        String[] own = all.toArray(String[]::new);
        Set<String> seen = new HashSet<>();
        long end = System.currentTimeMillis() + 120_000;
        KafkaConsumer<String, String> first = consumer(own);
        try (KafkaConsumer<String, String> second = consumer(own)) {
            first.subscribe(List.of(name));
            while (seen.size() < 1000 && System.currentTimeMillis() < end) {
                first.poll(Duration.ofMillis(500)).forEach(record -> seen.add(record.value()));
            }
            check(seen.size(), 1000);
            first.commitSync();
            second.subscribe(List.of(name));
            while ((first.assignment().size() != 2 || second.assignment().size() != 2) && System.currentTimeMillis() < end) {
                first.poll(Duration.ofMillis(200)).forEach(record -> { throw new AssertionError("read twice"); });
                second.poll(Duration.ofMillis(200)).forEach(record -> { throw new AssertionError("read twice"); });
            }
            check(first.assignment().size() + " " + second.assignment().size(), "2 2");
            first.close();
            while (second.assignment().size() != 4 && System.currentTimeMillis() < end) second.poll(Duration.ofMillis(200));
            check(second.assignment().size(), 4);
            send(name, 100);
            int more = 0;
            while (more < 100 && System.currentTimeMillis() < end) more += second.poll(Duration.ofMillis(500)).count();
            check(more, 100);
            second.commitSync();
            Map<TopicPartition, OffsetAndMetadata> committed = second.committed(second.assignment());
            long sum = committed.values().stream().filter(Objects::nonNull).mapToLong(OffsetAndMetadata::offset).sum();
            check(sum, 1100L);
        } finally {
            first.close();
        }
    }

    static void throughARestart(String topic, String... pairs) throws Exception {
        make(topic, 1);
        List<String> all = new ArrayList<>(List.of(pairs));
        all.addAll(List.of("group.id", topic));
        List<String> seen = new ArrayList<>();
        try (KafkaProducer<String, String> producer = producer();
                KafkaConsumer<String, String> consumer = consumer(all.toArray(String[]::new))) {
            consumer.subscribe(List.of(topic));
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int number = 0; number < 3000; number++) {
                sent.add(producer.send(new ProducerRecord<>(topic, "v" + number)));
                if (number == 1500) restart();
                if (number % 300 == 0) {
                    consumer.poll(Duration.ofMillis(200)).forEach(record -> seen.add(record.value()));
                }
            }
            producer.flush();
            for (Future<RecordMetadata> one : sent) one.get();
            long end = System.currentTimeMillis() + 90_000;
            while (seen.size() < 3000 && System.currentTimeMillis() < end) {
                consumer.poll(Duration.ofMillis(500)).forEach(record -> seen.add(record.value()));
            }
            check(seen, numbered("v", 0, 3000));
            consumer.commitSync();
            TopicPartition partition = new TopicPartition(topic, 0);
            check(consumer.committed(Set.of(partition)).get(partition).offset(), 3000L);
        }
    }

    static void scenario(String name, Work work) {
        try {
            work.run();
            System.out.println("ok " + name);
        } catch (Throwable error) {
            error.printStackTrace();
            System.out.println(("failed " + name + ": " + error).replace('\n', ' '));
        }
    }

    public static void main(String[] arguments) {
        bootstrap = arguments[0];
        String assignor = "org.apache.kafka.clients.consumer.";
        scenario("produce and read", Client::produce);
        scenario("idempotent", Client::idempotent);
        scenario("transaction", Client::transaction);
        scenario("seek by time", Client::byTime);
        scenario("admin", Client::admin);
        scenario("group", () -> {
            group("java-range", "partition.assignment.strategy", assignor + "RangeAssignor");
            group("java-cooperative", "partition.assignment.strategy", assignor + "CooperativeStickyAssignor");
        });
        scenario("new group protocol", () -> group("java-consumer", "group.protocol", "consumer"));
        scenario("restart", () -> {
            throughARestart("java-restart");
            throughARestart("java-restart-consumer", "group.protocol", "consumer");
        });
        System.exit(0);
    }
}
