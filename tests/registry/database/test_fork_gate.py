"""Forks and transactions of other threads: neither begins while the other runs."""

from pathlib import Path

import pytest

from tests.forks import order_of

pytestmark = pytest.mark.processes


def test_a_fork_waits_for_the_transactions_of_other_threads() -> None:
    script = """
gate = ForkGate()
gate.guard_forks()
def work():
    with gate.transaction():
        inside.set()
        time.sleep(0.3)
        order.append("transaction ended")
beside(work)
inside.wait()
fork()
"""
    assert order_of(script) == "transaction ended, forked"


def test_a_transaction_waits_for_a_fork_under_way() -> None:
    # What was registered first comes after the gate before the fork, and before the gate after it.
    script = """
closed = threading.Event()
os.register_at_fork(
    before=lambda: (closed.set(), time.sleep(0.3)), after_in_parent=lambda: order.append("fork ended")
)
gate = ForkGate()
gate.guard_forks()
def work():
    closed.wait()
    with gate.transaction():
        order.append("transaction")
worker = beside(work)
fork()
worker.join()
order.remove("forked")
"""
    assert order_of(script) == "fork ended, transaction"


def test_a_transaction_within_another_does_not_wait_for_the_fork_that_waits_for_it() -> None:
    script = """
gate = ForkGate()
gate.guard_forks()
def work():
    with gate.transaction():
        inside.set()
        time.sleep(0.3)
        with gate.transaction():
            order.append("inner")
        order.append("outer")
beside(work)
inside.wait()
fork()
"""
    assert order_of(script) == "inner, outer, forked"


def test_a_thread_may_fork_inside_its_own_transaction_and_the_child_may_begin_one() -> None:
    script = """
# So long would it wait for itself.
gate = ForkGate(limit_s=3600)
gate.guard_forks()
def begin():
    with gate.transaction():
        pass
with gate.transaction():
    order.append(str(fork(begin)))
begin()
"""
    assert order_of(script) == "forked, 0"


def test_a_transaction_that_hangs_keeps_no_process_from_forking() -> None:
    script = """
gate = ForkGate(limit_s=0.2)
gate.guard_forks()
def work():
    with gate.transaction():
        inside.set()
        time.sleep(2)
        order.append("transaction ended")
worker = beside(work)
inside.wait()
fork()
worker.join()
"""
    assert order_of(script) == "forked, transaction ended"


def test_a_transaction_that_another_thread_ends_keeps_no_fork_waiting() -> None:
    script = """
gate = ForkGate(limit_s=3600)
gate.guard_forks()
transaction = gate.transaction()
beside(transaction.__enter__).join()
transaction.__exit__(None, None, None)
fork()
"""
    assert order_of(script) == "forked"


def test_every_transaction_of_the_registry_keeps_forks_waiting(migrated_sqlite: Path, tmp_path: Path) -> None:
    script = """
FORK_GATE.guard_forks()
settings = settings_for(sys.argv[1], home=Path(sys.argv[2]))
def read():
    with database.read():
        pass
with Database(settings) as database:
    for kind in (database.read, database.write, database.writing_connection):
        inside.clear()
        def work():
            with kind():
                inside.set()
                time.sleep(0.2)
                order.append(kind.__name__)
        worker = beside(work)
        inside.wait()
        fork(read)
        worker.join()
"""
    assert order_of(script, f"sqlite:///{migrated_sqlite}", str(tmp_path)) == (
        "read, forked, write, forked, writing_connection, forked"
    )


def test_connections_are_closed_before_a_fork_but_not_within_a_transaction() -> None:
    script = """
gate = ForkGate(limit_s=0.2)
gate.guard_forks(lambda: order.append("disconnected"))
fork()
def work():
    with gate.transaction():
        inside.set()
        time.sleep(1)
worker = beside(work)
inside.wait()
fork()
worker.join()
"""
    assert order_of(script) == "disconnected, forked, forked"
