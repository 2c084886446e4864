"""The engine over Apache Kafka, by confluent-kafka: the optional extra "kafka"."""
