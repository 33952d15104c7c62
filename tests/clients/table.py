"""The table of client by scenario, and what differs from Apache Kafka."""

SCENARIOS = [
    "produce and read", "idempotent", "transaction", "seek by time", "admin", "group", "new group protocol", "restart",
]
# How a client's name is shown, where it is not its own.
SHOWN = {
    "confluent-kafka": "confluent-kafka 2.16.1", "kafka-python": "kafka-python 3.0.12", "aiokafka": "aiokafka 0.14.0",
    "kafkajs": "kafkajs 2.2.4", "@platformatic/kafka": "@platformatic/kafka 1.35.0", "franz-go": "franz-go 1.22.2",
    "sarama": "sarama 1.61.1", "rdkafka": "rdkafka crate 0.39.0", "kcat": "kcat 1.7.1",
}
# Their scenarios are the programs' own names.
PROGRAMS = ["tools", "streams", "connect"]
BROKERS = {"shard": "shards addressed", "node": "node addressed", "kafka": "Apache Kafka"}


def cell(outcomes, name, scenario):
    """One word, where every broker agrees; else each broker's."""
    words = {kind: every[name].get(scenario, "").split(":")[0] for kind, every in outcomes.items() if name in every}
    words = {kind: {"cannot": "–", "": "–"}.get(word, word) for kind, word in words.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{BROKERS[kind]}: {word}" for kind, word in words.items())


def names(outcomes):
    return list(dict.fromkeys(name for every in outcomes.values() for name in every))


def show(outcomes):
    """Prints the tables, why cells are empty, and what differs between Martlet and Apache Kafka."""
    print("Brokers: " + ", ".join(BROKERS[kind] for kind in outcomes) + ". A cell is theirs if they agree.\n")
    print(f"| client | {' | '.join(SCENARIOS)} |\n|---|{'---|' * len(SCENARIOS)}")
    for name in names(outcomes):
        if name not in PROGRAMS:
            print(f"| {SHOWN.get(name, name)} | {' | '.join(cell(outcomes, name, one) for one in SCENARIOS)} |")
    programs = [name for name in names(outcomes) if name in PROGRAMS]
    if programs:
        print("\n| program | outcome |\n|---|---|")
    for name in programs:
        for program in dict.fromkeys(one for every in outcomes.values() for one in every.get(name, {})):
            print(f"| {program} | {cell(outcomes, name, program)} |")
    notes = {
        f"{SHOWN.get(name, name)}, {scenario}: {outcome.partition(': ')[2]}": None
        for every in outcomes.values() for name, found in every.items() for scenario, outcome in found.items()
        if outcome.startswith("cannot")
    }
    print("".join(f"\n- {note}" for note in notes))
    for kind in outcomes:
        for name, found in outcomes[kind].items():
            for scenario, outcome in found.items():
                if outcome.startswith("failed"):
                    print(f"{BROKERS[kind]}: {name}: {scenario}: {outcome}")


def failures(outcomes, kinds, wanted, without):
    """What failed, but for `without` and what fails with Apache Kafka too; a client that told nothing has failed."""
    found = []
    for kind in kinds:
        for name in wanted:
            theirs = outcomes.get("kafka", {}).get(name, {}) if kind != "kafka" else {}
            own = outcomes[kind][name]
            found += [
                (kind, name, scenario) for scenario, outcome in own.items()
                if outcome.startswith("failed") and scenario not in without and not theirs.get(scenario, "").startswith("failed")
            ]
            if not own:
                found.append((kind, name, "nothing"))
    return found
