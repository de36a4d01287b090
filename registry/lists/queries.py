"""The lists of `ls`: base models, adapters, datasets, compositions and jobs, as plain dictionaries.

SQL consists of constants; a user's values are always bound parameters.
"""

from collections.abc import Sequence

from registry.database.reader import AT_ONCE, Reader, Row
from registry.database.text_search import words_of
from registry.errors import InvalidField
from registry.jobs.states import STATES
from registry.records.resolution import (
    ACTIVE_FIRST,
    ADAPTER,
    DATASET,
    ONLY_ACTIVE,
    find_base,
    find_version,
)

#: The type of every list.
Rows = list[Row]

#: Metric that `eval:<task>` sorts by.
DEFAULT_METRIC = "loss"

#: Metrics for which lower is better; for all others higher is.
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "word_perplexity", "byte_perplexity")

_ORDERS = {"name": "n.name, v.version", "created": "v.created_at DESC, v.id DESC"}

_ADAPTERS = """
SELECT v.id, n.name, v.version, n.name || '@' || v.version AS reference, b.name AS base, v.rank, v.alpha,
       v.use_rslora, v.licence, v.description, v.origin, v.job_id, v.parameter_count, v.size_bytes,
       v.dtype, v.weights_digest, v.effect_score, v.warnings, v.state, v.created_at,
       e.metric, e.value AS score
FROM adapter_version v
JOIN adapter n ON n.id = v.adapter_id
JOIN base_model b ON b.id = v.base_id
LEFT JOIN evaluation e ON e.adapter_version_id = v.id AND e.task = ? AND e.metric = ? AND e.is_newest
"""

_LABELS = """
SELECT adapter_version_id AS version_id, label FROM adapter_label
WHERE kind = '{kind}' AND {of_rows} ORDER BY adapter_version_id, position
"""

_HAS_LABEL = """EXISTS (
    SELECT 1 FROM adapter_label l WHERE l.adapter_version_id = v.id AND l.kind = ? AND l.label = ?
)"""

_ADAPTER_REFERENCES = """
SELECT n.name || '@' || v.version AS reference
FROM adapter_version v JOIN adapter n ON n.id = v.adapter_id
"""

_BASES = """
SELECT v.id, v.name, v.name AS reference, v.digest, v.architecture, v.hidden_size, v.layer_count,
       v.vocabulary_size, v.dtype, v.parameter_count, v.size_bytes, v.licence, v.source, v.revision, v.state,
       v.created_at
FROM base_model v
"""

_DATASETS = """
SELECT v.id, n.name, v.version, n.name || '@' || v.version AS reference, v.examples, v.domain, v.split,
       v.format, v.licence, v.origin, v.size_bytes, v.digest, v.warnings, v.state, v.created_at
FROM dataset_version v JOIN dataset n ON n.id = v.dataset_id
"""

_COMPOSITIONS = """
SELECT v.id, n.name, v.version, n.name || '@' || v.version AS reference, v.method, b.name AS base,
       v.content_digest, v.job_id, v.state, v.created_at
FROM composition_version v
JOIN composition n ON n.id = v.composition_id
JOIN base_model b ON b.id = v.base_id
"""

_EXPERTS = """
SELECT x.composition_version_id AS version_id, n.name || '@' || a.version AS reference
FROM expert x
JOIN adapter_version a ON a.id = x.adapter_version_id
JOIN adapter n ON n.id = a.adapter_id
WHERE {of_rows} ORDER BY x.composition_version_id, x.position
"""

_ALIASES = """
SELECT {kind}_version_id AS version_id, alias FROM alias
WHERE kind = '{kind}' AND {of_rows} ORDER BY alias
"""

_HAS_EXPERT = """EXISTS (
    SELECT 1 FROM expert x WHERE x.composition_version_id = v.id AND x.adapter_version_id = ?
)"""

_WORKERS = """
SELECT v.name, v.host, v.process_id, v.queues, v.gpu, v.state, j.id AS job, v.started_at, v.seen_at,
       {now} AS read_at
FROM worker v LEFT JOIN job j ON j.worker = v.name AND j.state = 'running'
"""

_JOBS = """
SELECT v.id, v.kind, v.state, v.reason, v.message, v.spec, v.queue, v.priority, v.attempt, v.max_attempts,
       v.owner, v.worker, v.cancel_requested, v.progress, v.outcome, v.run_id, v.created_at, v.started_at,
       v.finished_at, v.lease_until, v.deadline_at, v.state = 'running' AND v.lease_until < {now} AS is_lost
FROM job v
"""


def adapters(
    reader: Reader,
    *,
    base: str | None = None,
    domain: str | None = None,
    tag: str | None = None,
    search: str | None = None,
    trained_on: str | None = None,
    include_deleted: bool = False,
    sort: str = "name",
    limit: int | None = None,
) -> list[Row]:
    """Adapter versions, each with its aliases; `sort` is name, created, or eval:<task>[:<metric>].

    `search` are words that the name, labels, description or card of each has, or begins a word with.
    `trained_on` is the dataset version of its job, such as `bio.train@1`. Sorted by an evaluation, each has
    its newest `score`, and those without one are last.

    Raises:
        BaseNotFound: there is no base model of that name or digest.
        InvalidField: `sort` or `limit` is not allowed, nothing has the score to sort by, or `search` has no
            word.
    """
    order, task, metric = _order(sort)
    if task:
        _require_measured(reader, task, metric)
    where = _Conditions(include_deleted=include_deleted)
    if domain is not None:
        where.add(_HAS_LABEL, "domain", domain)
    if tag is not None:
        where.add(_HAS_LABEL, "tag", tag)
    if search is not None:
        where.add(reader.text_search.condition, reader.text_search.all_of(_searched(search)))
    _add_origin(reader, where, base=base, trained_on=trained_on)
    rows = _run(reader, _ADAPTERS, where, order=order, limit=limit, values=(task, metric))
    condition, ids = _of_rows("adapter_version_id", rows)
    for name, kind in (("domains", "domain"), ("tags", "tag")):
        found = reader.rows(_LABELS.format(kind=kind, of_rows=condition), ids)
        _add_grouped(rows, name, found, value="label")
    return _with_aliases(reader, rows, kind="adapter")


def adapter_references(
    reader: Reader, *, base: str | None = None, trained_on: str | None = None
) -> list[str]:
    """The references of adapter versions by name and number, filtered as `adapters` filters them."""
    where = _Conditions(include_deleted=False)
    _add_origin(reader, where, base=base, trained_on=trained_on)
    rows = _run(reader, _ADAPTER_REFERENCES, where, order=_ORDERS["name"], limit=None)
    return [row["reference"] for row in rows]


def bases(reader: Reader, *, include_deleted: bool = False, limit: int | None = None) -> list[Row]:
    """Base models by name."""
    where = _Conditions(include_deleted=include_deleted)
    return _run(reader, _BASES, where, order="v.name", limit=limit)


def datasets(
    reader: Reader,
    *,
    domain: str | None = None,
    include_deleted: bool = False,
    limit: int | None = None,
) -> list[Row]:
    """Dataset versions by name and number, each with its aliases."""
    where = _Conditions(include_deleted=include_deleted)
    if domain is not None:
        where.add("v.domain = ?", domain)
    rows = _run(reader, _DATASETS, where, order=_ORDERS["name"], limit=limit)
    return _with_aliases(reader, rows, kind="dataset")


def compositions(
    reader: Reader,
    *,
    base: str | None = None,
    expert: str | None = None,
    include_deleted: bool = False,
    limit: int | None = None,
) -> list[Row]:
    """Composition versions by name and number, each with its experts in order and its aliases.

    `expert` is the adapter version, such as `bio@3`, that they are made of.
    """
    where = _Conditions(include_deleted=include_deleted)
    if base is not None:
        where.add("v.base_id = ?", find_base(reader, base, states=where.states).id)
    if expert is not None:
        where.add(_HAS_EXPERT, find_version(reader, ADAPTER, expert, states=ACTIVE_FIRST).id)
    rows = _run(reader, _COMPOSITIONS, where, order=_ORDERS["name"], limit=limit)
    condition, ids = _of_rows("x.composition_version_id", rows)
    experts = reader.rows(_EXPERTS.format(of_rows=condition), ids)
    _add_grouped(rows, "experts", experts, value="reference")
    return _with_aliases(reader, rows, kind="composition")


def jobs(
    reader: Reader,
    *,
    states: Sequence[str] = (),
    kind: str | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> list[Row]:
    """Jobs of the given states, or of all, the newest first; those `before` a job, for the next page.

    `is_lost` says whether a job is running by its state alone: its lease was not renewed in time.

    Raises:
        InvalidField: a job cannot be in one of the states.
    """
    where = _Conditions(include_deleted=True)
    for state in states:
        if state not in STATES:
            raise InvalidField("state", allowed=f"one of {', '.join(STATES)}", value=state)
    if states:
        where.add(f"v.state IN ({', '.join('?' for _ in states)})", *states)
    if kind is not None:
        where.add("v.kind = ?", kind)
    if before is not None:
        where.add("v.id < ?", before)
    return _run(reader, _JOBS.format(now=reader.now), where, order="v.id DESC", limit=limit)


def workers(reader: Reader) -> list[Row]:
    """Workers by host and age, each with its running job, if any; `read_at` is the time of the query."""
    where, select = _Conditions(include_deleted=True), _WORKERS.format(now=reader.now)
    return _run(reader, select, where, order="v.host, v.started_at", limit=None)


class _Conditions:
    """Conditions that must all hold, and their values."""

    def __init__(self, *, include_deleted: bool) -> None:
        #: What a reference in a condition may mean.
        self.states = ACTIVE_FIRST if include_deleted else ONLY_ACTIVE
        self.texts = [] if include_deleted else ["v.state = 'active'"]
        self.values: list[object] = []

    def add(self, text: str, *values: object) -> None:
        self.texts.append(text)
        self.values += values


def _add_origin(reader: Reader, where: _Conditions, *, base: str | None, trained_on: str | None) -> None:
    """Conditions of the base model and the dataset that adapter versions are made from."""
    if base is not None:
        where.add("v.base_id = ?", find_base(reader, base, states=where.states).id)
    if trained_on is not None:
        dataset = find_version(reader, DATASET, trained_on, states=ACTIVE_FIRST)
        where.add("v.parameters ->> 'train_dataset' = ?", dataset.reference)


def _run(
    reader: Reader,
    select: str,
    where: _Conditions,
    *,
    order: str,
    limit: int | None,
    values: Sequence[object] = (),
) -> list[Row]:
    if limit is not None and limit < 1:
        raise InvalidField("limit", allowed="at least 1", value=limit)
    conditions = f" WHERE {' AND '.join(where.texts)}" if where.texts else ""
    bounded = "" if limit is None else " LIMIT ?"
    bound = [] if limit is None else [limit]
    return reader.rows(f"{select}{conditions} ORDER BY {order}{bounded}", [*values, *where.values, *bound])


def _order(sort: str) -> tuple[str, str, str]:
    """The ORDER BY, and task and metric of the evaluation to join."""
    if sort in _ORDERS:
        return _ORDERS[sort], "", ""
    what, _, rest = sort.partition(":")
    task, _, metric = rest.partition(":")
    if what != "eval" or not task:
        raise InvalidField("sort", allowed="name, created, eval:<task> or eval:<task>:<metric>", value=sort)
    metric = metric or DEFAULT_METRIC
    direction = "ASC" if metric in LOWER_IS_BETTER else "DESC"
    return f"e.value IS NULL, e.value {direction}, {_ORDERS['name']}", task, metric


def _require_measured(reader: Reader, task: str, metric: str) -> None:
    wanted = "SELECT DISTINCT task, metric FROM evaluation WHERE subject LIKE ? ORDER BY task, metric"
    measured = [f"eval:{row['task']}:{row['metric']}" for row in reader.rows(wanted, ("adapter:%",))]
    asked = f"eval:{task}:{metric}"
    if asked in measured:
        return
    scores = f"a score that an adapter has: {', '.join(measured)}"
    raise InvalidField(
        "sort",
        allowed=scores if measured else "name or created while no adapter has a score (see: zoo eval --help)",
        value=asked,
    )


def _with_aliases(reader: Reader, rows: list[Row], *, kind: str) -> list[Row]:
    condition, ids = _of_rows(f"{kind}_version_id", rows)
    pointing = reader.rows(_ALIASES.format(kind=kind, of_rows=condition), ids)
    return _add_grouped(rows, "aliases", pointing, value="alias")


def _searched(text: str) -> list[str]:
    words = words_of([text])
    if not words:
        raise InvalidField("search", "a word or more, of letters and digits", text)
    return words


def _of_rows(column: str, rows: Sequence[Row]) -> tuple[str, list[object]]:
    """A condition that a column names one of the rows; always true for more than `AT_ONCE`: it is faster."""
    if not 0 < len(rows) <= AT_ONCE:
        return "1 = 1", []
    return f"{column} IN ({', '.join('?' for _ in rows)})", [row["id"] for row in rows]


def _add_grouped(rows: list[Row], name: str, found: Sequence[Row], *, value: str) -> list[Row]:
    """The rows, each with a list of its details."""
    grouped: dict[int, list[object]] = {}
    for row in found:
        grouped.setdefault(row["version_id"], []).append(row[value])
    for row in rows:
        row[name] = grouped.get(row["id"], [])
    return rows
