"""What may be asked for by name; the table itself imports numpy, which a request need not."""

#: The metrics of the table, in its order.
METRIC_NAMES = (
    "loss",
    "perplexity",
    "bits_per_byte",
    "exact_match",
    "accuracy",
    "accuracy_norm",
    "numeric_match",
    "r2",
    "f1",
    "rouge_l",
)

#: Asks for every metric that the data allow.
ALL = "all"
