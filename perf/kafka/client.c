/* A Kafka client on librdkafka that measures: full speed, fixed rates, reading, the first acknowledgement.
 *
 *   client produce BOOTSTRAP TOPIC bytes=1024 records=1000000
 *   client rate    BOOTSTRAP TOPIC bytes=1024 rate=5000 seconds=5 warm=1
 *   client read    BOOTSTRAP TOPIC partitions=4 records=1000000
 *   client first   BOOTSTRAP TOPIC
 *
 * Prints one JSON object. Any NAME.X=VALUE is a setting of librdkafka. Times are CLOCK_MONOTONIC. In `rate` a
 * record counts from when it should have been sent, so that a stall is charged to all that it delays.
 *
 * Links against the library alone: what is used of its interface is declared here, which is stable since 1.0.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_topic_partition_list_s rd_kafka_topic_partition_list_t;
typedef struct rd_kafka_topic_partition_s {
    char *topic;
    int32_t partition;
    int64_t offset;
    void *metadata;
    size_t metadata_size;
    void *opaque;
    int err;
    void *private_part;
} rd_kafka_topic_partition_t;
typedef struct rd_kafka_message_s {
    int err;
    rd_kafka_topic_t *rkt;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *private_part;
} rd_kafka_message_t;

rd_kafka_conf_t *rd_kafka_conf_new(void);
int rd_kafka_conf_set(rd_kafka_conf_t *, const char *, const char *, char *, size_t);
void rd_kafka_conf_set_dr_msg_cb(rd_kafka_conf_t *, void (*)(rd_kafka_t *, const rd_kafka_message_t *, void *));
rd_kafka_t *rd_kafka_new(int, rd_kafka_conf_t *, char *, size_t);
rd_kafka_topic_t *rd_kafka_topic_new(rd_kafka_t *, const char *, void *);
int rd_kafka_produce(rd_kafka_topic_t *, int32_t, int, void *, size_t, const void *, size_t, void *);
int rd_kafka_produce_batch(rd_kafka_topic_t *, int32_t, int, rd_kafka_message_t *, int);
int rd_kafka_poll(rd_kafka_t *, int);
int rd_kafka_flush(rd_kafka_t *, int);
int rd_kafka_outq_len(rd_kafka_t *);
const char *rd_kafka_err2str(int);
int rd_kafka_assign(rd_kafka_t *, const rd_kafka_topic_partition_list_t *);
int rd_kafka_poll_set_consumer(rd_kafka_t *);
rd_kafka_topic_partition_list_t *rd_kafka_topic_partition_list_new(int);
rd_kafka_topic_partition_t *rd_kafka_topic_partition_list_add(rd_kafka_topic_partition_list_t *, const char *, int32_t);
rd_kafka_queue_t *rd_kafka_queue_get_consumer(rd_kafka_t *);
ssize_t rd_kafka_consume_batch_queue(rd_kafka_queue_t *, int, rd_kafka_message_t **, size_t);
void rd_kafka_message_destroy(rd_kafka_message_t *);
const char *rd_kafka_version_str(void);

enum { PRODUCER = 0, CONSUMER = 1, F_COPY = 2, ANY_PARTITION = -1, BATCH = 1000, PARTITION_EOF = -191 };

static const char *bootstrap, *topic_name;
static char **settings;
static int settings_count;
static volatile int failures, is_over;
static uint64_t acknowledged;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void nap(long nanoseconds) {
    struct timespec length = {.tv_nsec = nanoseconds};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &length, NULL);
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static const char *option(const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (int at = 0; at < settings_count; at++)
        if (!strncmp(settings[at], name, length) && settings[at][length] == '=') return settings[at] + length + 1;
    return otherwise;
}

static uint64_t number(const char *name, const char *otherwise) { return strtoull(option(name, otherwise), NULL, 10); }

/* A histogram of microseconds: exact up to 2,047, then 1,024 steps for each doubling. */
enum { STEPS = 1024, SLOTS = STEPS * 22 };
typedef struct {
    uint64_t slots[SLOTS], count;
} histogram;
static histogram produced, received;

static void record(histogram *into, uint64_t nanoseconds) {
    uint64_t value = nanoseconds / 1000;
    int shift = 0;
    while ((value >> shift) >= 2 * STEPS) shift++;
    uint64_t slot = (uint64_t)shift * STEPS + (value >> shift);
    into->slots[slot < SLOTS ? slot : SLOTS - 1]++;
    into->count++;
}

static uint64_t quantile(const histogram *of, double share) {
    uint64_t wanted = (uint64_t)(share * (double)of->count), seen = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        seen += of->slots[slot];
        if (seen > wanted || (seen == of->count && seen)) {
            int shift = slot < 2 * STEPS ? 0 : slot / STEPS - 1;
            return ((uint64_t)slot - (uint64_t)shift * STEPS) << shift;
        }
    }
    return 0;
}

static void on_delivery(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
    (void)client, (void)opaque;
    if (message->err) {
        if (!failures++) fprintf(stderr, "not delivered: %s\n", rd_kafka_err2str(message->err));
        return;
    }
    acknowledged++;
    uint64_t due;
    if (message->len < sizeof due) return;
    memcpy(&due, message->payload, sizeof due);
    if (due) record(&produced, now_ns() - due);
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[512];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why)) die(name, why);
}

static rd_kafka_t *client(int kind) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char why[512], name[128];
    set(conf, "bootstrap.servers", bootstrap);
    for (int at = 0; at < settings_count; at++) {
        const char *equals = strchr(settings[at], '=');
        if (!equals || !memchr(settings[at], '.', (size_t)(equals - settings[at]))) continue;
        int is_readers = !strncmp(settings[at], "fetch.", 6);
        if (is_readers != (kind == CONSUMER)) continue;
        snprintf(name, sizeof name, "%.*s", (int)(equals - settings[at]), settings[at]);
        set(conf, name, equals + 1);
    }
    if (kind == CONSUMER) {
        set(conf, "group.id", "reads");
        set(conf, "enable.auto.commit", "false");
        set(conf, "allow.auto.create.topics", "true");
    } else {
        rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    }
    rd_kafka_t *made = rd_kafka_new(kind, conf, why, sizeof why);
    if (!made) die("client", why);
    return made;
}

static rd_kafka_t *reader(int partitions) {
    rd_kafka_t *made = client(CONSUMER);
    rd_kafka_poll_set_consumer(made);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int at = 0; at < partitions; at++) rd_kafka_topic_partition_list_add(list, topic_name, at)->offset = 0;
    int error = rd_kafka_assign(made, list);
    if (error) die("assign", rd_kafka_err2str(error));
    return made;
}

static void *poll_reports(void *producer) {
    while (!is_over) rd_kafka_poll(producer, 100);
    return NULL;
}

static void finish(rd_kafka_t *producer) {
    while (rd_kafka_outq_len(producer) > 0) rd_kafka_flush(producer, 1000);
}

static int produce(void) {
    uint64_t bytes = number("bytes", "1024"), records = number("records", "100000"), sent = 0;
    char *payload = calloc(1, bytes);
    for (uint64_t at = 8; at < bytes; at++) payload[at] = (char)(at * 31 + at / 7);
    rd_kafka_t *producer = client(PRODUCER);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, topic_name, NULL);
    static rd_kafka_message_t batch[BATCH];
    uint64_t begun = now_ns();
    while (sent < records) {
        int count = records - sent < BATCH ? (int)(records - sent) : BATCH;
        for (int at = 0; at < count; at++)
            batch[at] = (rd_kafka_message_t){.payload = payload, .len = bytes, .partition = ANY_PARTITION};
        int taken = rd_kafka_produce_batch(topic, ANY_PARTITION, F_COPY, batch, count);
        sent += (uint64_t)taken;
        rd_kafka_poll(producer, taken < count ? 2 : 0);
    }
    finish(producer);
    double seconds = (double)(now_ns() - begun) / 1e9;
    double rate = (double)acknowledged / seconds, mb_s = rate * (double)bytes / 1e6;
    printf("{\"records\": %" PRIu64 ", \"acknowledged\": %" PRIu64 ", ", records, acknowledged);
    printf("\"seconds\": %.4f, \"rate\": %.0f, \"mb_s\": %.2f}\n", seconds, rate, mb_s);
    return failures != 0 || acknowledged != records;
}

static void *read_latency(void *consumer) {
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(consumer);
    static rd_kafka_message_t *messages[BATCH];
    while (!is_over) {
        ssize_t count = rd_kafka_consume_batch_queue(queue, 0, messages, BATCH);
        if (count == 0) count = rd_kafka_consume_batch_queue(queue, 100, messages, 1);
        uint64_t now = now_ns(), due;
        for (ssize_t at = 0; at < count; at++) {
            if (!messages[at]->err && messages[at]->len >= sizeof due) {
                memcpy(&due, messages[at]->payload, sizeof due);
                if (due) record(&received, now - due);
            }
            rd_kafka_message_destroy(messages[at]);
        }
    }
    return NULL;
}

static void print_latency(const char *name, const histogram *of, const char *end) {
    printf("\"%s\": {\"count\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p99\": %" PRIu64 ", \"p99.9\": %" PRIu64 "}%s", name,
           of->count, quantile(of, 0.5), quantile(of, 0.99), quantile(of, 0.999), end);
}

static int rate(void) {
    uint64_t bytes = number("bytes", "1024"), per_second = number("rate", "5000");
    uint64_t warm_ns = number("warm", "1") * 1000000000u;
    uint64_t length_ns = number("seconds", "5") * 1000000000u, sent = 0;
    char *payload = calloc(1, bytes);
    rd_kafka_t *producer = client(PRODUCER);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, topic_name, NULL);
    pthread_t reports, reads;
    pthread_create(&reports, NULL, poll_reports, producer);
    /* The first record makes the topic, before anybody reads it. */
    rd_kafka_produce(topic, 0, F_COPY, payload, bytes, NULL, 0, NULL);
    while (acknowledged == 0 && !failures) rd_kafka_flush(producer, 100);
    rd_kafka_t *consumer = reader(1);
    pthread_create(&reads, NULL, read_latency, consumer);
    uint64_t begun = now_ns() + 200000000u;
    for (;;) {
        uint64_t due = begun + sent * 1000000000u / per_second, now = now_ns();
        if (due >= begun + warm_ns + length_ns) break;
        if (due > now) {
            struct timespec at = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        }
        uint64_t stamp = due >= begun + warm_ns ? due : 0;
        memcpy(payload, &stamp, sizeof stamp);
        while (rd_kafka_produce(topic, 0, F_COPY, payload, bytes, NULL, 0, NULL)) nap(100000);
        sent++;
    }
    finish(producer);
    uint64_t over = now_ns();
    uint64_t expected = produced.count;
    while (received.count < expected && now_ns() - over < 5000000000u) nap(10000000);
    is_over = 1;
    pthread_join(reports, NULL);
    pthread_join(reads, NULL);
    printf("{\"records\": %" PRIu64 ", \"behind_ms\": %" PRIu64 ", ", sent,
           (over - begun - warm_ns - length_ns) / 1000000);
    print_latency("produce", &produced, ", ");
    print_latency("end_to_end", &received, "}\n");
    return failures != 0;
}

static int read_all(void) {
    uint64_t records = number("records", "100000"), count = 0, bytes = 0;
    uint64_t begun = now_ns();
    rd_kafka_t *consumer = reader((int)number("partitions", "1"));
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(consumer);
    static rd_kafka_message_t *messages[BATCH * 10];
    uint64_t last = now_ns();
    while (count < records) {
        ssize_t got = rd_kafka_consume_batch_queue(queue, 100, messages, BATCH * 10);
        if (got > 0) last = now_ns();
        if (now_ns() - last > 20000000000u) die("read", "nothing came for 20 s");
        for (ssize_t at = 0; at < got; at++) {
            if (!messages[at]->err) {
                count++;
                bytes += messages[at]->len;
            } else if (messages[at]->err != PARTITION_EOF) {
                fprintf(stderr, "read: %s\n", rd_kafka_err2str(messages[at]->err));
            }
            rd_kafka_message_destroy(messages[at]);
        }
    }
    double seconds = (double)(last - begun) / 1e9;
    printf("{\"records\": %" PRIu64 ", \"seconds\": %.4f, \"rate\": %.0f, \"mb_s\": %.2f}\n", count, seconds,
           (double)count / seconds, (double)bytes / seconds / 1e6);
    return 0;
}

static int first(void) {
    char payload[100] = {0};
    rd_kafka_t *producer = client(PRODUCER);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, topic_name, NULL);
    rd_kafka_produce(topic, ANY_PARTITION, F_COPY, payload, sizeof payload, NULL, 0, NULL);
    while (!acknowledged && !failures) rd_kafka_poll(producer, 1000);
    printf("{\"at\": %.6f}\n", (double)now_ns() / 1e9);
    return failures != 0;
}

int main(int count, char **words) {
    if (count < 4) die("usage", "client produce|rate|read|first BOOTSTRAP TOPIC [NAME=VALUE ...]");
    bootstrap = words[2], topic_name = words[3], settings = words + 4, settings_count = count - 4;
    int done = 1;
    if (!strcmp(words[1], "produce")) done = produce();
    else if (!strcmp(words[1], "rate")) done = rate();
    else if (!strcmp(words[1], "read")) done = read_all();
    else if (!strcmp(words[1], "first")) done = first();
    else die(words[1], "is none of produce, rate, read, first");
    fflush(stdout);
    /* Closing takes its time and says nothing about the broker. */
    _Exit(done);
}
