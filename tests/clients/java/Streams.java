// A Kafka Streams application with exactly_once_v2: counts by key and window, in a store with a changelog.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;

public class Streams {
    interface Work {
        void run() throws Exception;
    }

    static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in));
    static final long BASE = System.currentTimeMillis() / 60_000 * 60_000 - 600_000;
    static String bootstrap;
    static int sent = 0;

    static void check(Object found, Object wanted) {
        if (!found.equals(wanted)) throw new AssertionError("found " + found + ", not " + wanted);
    }

    static KafkaStreams start(Path state) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream("streams-input")
                .groupByKey()
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofHours(1)))
                .count(Materialized.as("counts"))
                .toStream()
                .map((window, count) -> KeyValue.pair(window.key() + "@" + window.window().start(), count.toString()))
                .to("streams-output");
        Properties settings = new Properties();
        settings.putAll(Map.of(
                "application.id", "streams", "bootstrap.servers", bootstrap, "processing.guarantee", "exactly_once_v2",
                "state.dir", state.toString(), "commit.interval.ms", "200", "replication.factor", "1",
                "auto.offset.reset", "earliest", "num.stream.threads", "2",
                "default.key.serde", Serdes.StringSerde.class.getName(),
                "default.value.serde", Serdes.StringSerde.class.getName()));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.start();
        return streams;
    }

    static void send(int count) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (int end = sent + count; sent < end; sent++) {
                long time = BASE + sent % 5 * 60_000L;
                producer.send(new ProducerRecord<>("streams-input", null, time, "k" + sent % 7, "v"));
            }
        }
    }

    /** Waits until the last count of each key and window add up to what was sent; more would be a record counted twice. */
    static void counted() throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "isolation.level", "read_committed");
        Map<String, Long> counts = new HashMap<>();
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            for (int index = 0; index < 4; index++) all.add(new TopicPartition("streams-output", index));
            consumer.assign(all);
            consumer.seekToBeginning(all);
            long end = System.currentTimeMillis() + 180_000;
            long sum = 0;
            while (sum < sent && System.currentTimeMillis() < end) {
                for (var record : consumer.poll(Duration.ofMillis(500))) counts.put(record.key(), Long.parseLong(record.value()));
                sum = counts.values().stream().mapToLong(Long::longValue).sum();
            }
            for (var record : consumer.poll(Duration.ofMillis(1000))) counts.put(record.key(), Long.parseLong(record.value()));
            check(counts.values().stream().mapToLong(Long::longValue).sum(), (long) sent);
            check(counts.size(), 35);
        }
    }

    static void throughARestart(Path state) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic("streams-input", 4, (short) 1), new NewTopic("streams-output", 4, (short) 1)))
                    .all().get();
            try (KafkaStreams streams = start(state)) {
                send(2000);
                counted();
                System.out.println("restart");
                INPUT.readLine();
                send(2000);
                counted();
            }
            ConfigResource changelog = new ConfigResource(ConfigResource.Type.TOPIC, "streams-counts-changelog");
            String policy = admin.describeConfigs(Set.of(changelog)).all().get().get(changelog).get("cleanup.policy").value();
            check(policy.contains("compact"), true);
        }
    }

    static void restored(Path state) throws Exception {
        send(1000);
        try (KafkaStreams streams = start(state)) {
            counted();
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

    static void remove(Path folder) throws Exception {
        try (Stream<Path> all = Files.walk(folder)) {
            for (Path path : all.sorted(Comparator.reverseOrder()).toList()) Files.delete(path);
        }
    }

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        Path first = Files.createTempDirectory("martlet-streams-");
        Path second = Files.createTempDirectory("martlet-streams-");
        scenario("Kafka Streams: exactly_once_v2, windowed store, over a restart", () -> throughARestart(first));
        scenario("Kafka Streams: a store restored from its changelog", () -> restored(second));
        remove(first);
        remove(second);
        System.exit(0);
    }
}
