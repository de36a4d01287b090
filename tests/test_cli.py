"""The `zoo` command as a user sees it: what it prints, where, and its exit codes."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from registry.lists import queries
from registry.service import Registry
from registry.settings import Settings
from tests.command_line import Ask
from tests.registry.folders import write_dataset

ROOT = Path(__file__).resolve().parents[1]

#: Slow to import, so commands that only read must not import them.
HEAVY = {"sqlalchemy", "torch", "transformers", "peft", "mlflow", "pydantic", "numpy", "rich", "matplotlib"}


#: A plan that holds, but for the name and what a test adds.
COMPOSE = (
    "compose", "--adapters", "bio@1,protein", "--dry-run",
    *(part for domain in ("biology", "proteins") for part in ("--data", f"{domain}=bio.eval")),
    *(part for domain in ("biology", "proteins") for part in ("--eval-data", f"{domain}=bio.eval")),
)  # fmt: skip


TRAIN = ("train", "--name", "x", "--base", "pico", "--data", "bio.eval", "--detach")


@pytest.mark.processes
@pytest.mark.alone
def test_listing_adapters_takes_a_third_of_a_second_and_imports_nothing_heavy(home: Path) -> None:
    code = (
        "import sys, zoo\n"
        "try: zoo.main(['adapters', 'ls'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    seconds = []
    for _ in range(5):
        before = _processor_s()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
        seconds.append(_processor_s() - before)
    # CPU time, which unlike wall time does not grow with the machine's load.
    assert min(seconds) < 0.3


@pytest.mark.processes
def test_no_list_and_no_help_imports_anything_heavy(home: Path) -> None:
    code = (
        "import sys, zoo\n"
        "lists = [(noun, 'ls') for noun in ('bases', 'datasets', 'compositions', 'jobs', 'workers')]\n"
        "for arguments in [('--help',), *lists]:\n"
        "    try: zoo.main(list(arguments))\n"
        "    except SystemExit as ended: assert ended.code == 0\n"
        f"    heavy = {HEAVY} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.processes
def test_help_names_every_command_by_purpose_and_imports_none(home: Path) -> None:
    code = (
        "import sys, zoo\n"
        "try: zoo.main(['--help'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "assert not [name for name in sys.modules if '.commands.' in name]\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert all(f"{section}:" in shown for section in zoo.COMMANDS)
    assert all(f"  {name} " in shown for name in zoo.TABLE)


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [("--help",), ("adapters", "ls", "--json")])
def test_output_that_finds_no_room_is_said_in_one_line(arguments: tuple[str, ...], catalogue: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "zoo", *arguments],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "error ZOO-E283: no room left; make room, then repeat the command\n",
    )


@pytest.mark.processes
def test_a_closed_standard_output_is_no_fault(catalogue: Path) -> None:
    code = (
        "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'zoo', 'bases', 'ls'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("name", list(zoo.TABLE))
def test_every_command_of_the_table_can_be_imported_and_helps(name: str, ask: Ask) -> None:
    answer = ask(name, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: zoo {name}")


def test_adapters_are_listed_for_people_scripts_and_pipes(catalogue: Path, ask: Ask) -> None:
    assert ask("adapters", "ls", "-q").out.split() == ["bio@1", "bio@2", "protein@1"]
    assert [row["reference"] for row in ask("adapters", "ls", "--base", "pico", "--json").json] == [
        "bio@1",
        "bio@2",
        "protein@1",
    ]
    assert ask("adapters", "ls", "--domain", "proteins", "-q").out == "protein@1\n"
    header, first, *_ = ask("adapters", "ls").out.splitlines()
    assert header.split()[:4] == ["reference", "base", "rank", "domains"]
    assert first.split()[:4] == ["bio@1", "pico", "2", "biology"]


def test_adapters_sorted_by_a_score_come_best_first_and_show_it(catalogue: Path, ask: Ask) -> None:
    answer = ask("adapters", "ls", "--sort", "eval:bio", "--json")
    assert [(row["reference"], row["score"]) for row in answer.json] == [
        ("bio@2", 0.7),
        ("bio@1", 0.9),
        ("protein@1", 2.5),
    ]
    assert "score" in ask("adapters", "ls", "--sort", "eval:bio").out.splitlines()[0]


def test_an_adapter_is_shown_with_what_is_known_of_it(catalogue: Path, ask: Ask) -> None:
    shown = ask("adapters", "show", "bio@1", "--json").json
    assert shown["expert_of"] == ["science@1"]
    assert [evaluation["value"] for evaluation in shown["evaluations"]] == [0.9]
    assert {file["path"] for file in shown["files"]} >= {"adapter_model.safetensors"}
    assert ask("adapters", "show", "bio@champion", "--json").json["aliases"] == ["champion"]
    text = ask("adapters", "show", "bio").out
    assert "evaluations" in text
    assert "adapter_model.safetensors" in text


def test_a_diff_names_the_fields_that_differ(catalogue: Path, ask: Ask) -> None:
    rows = {row["field"]: row for row in ask("adapters", "diff", "bio@1", "bio@2", "--json").json}
    assert (rows["rank"]["bio@1"], rows["rank"]["bio@2"]) == (2, 4)
    assert (rows["eval:bio:loss"]["bio@1"], rows["eval:bio:loss"]["bio@2"]) == (0.9, 0.7)
    assert "base_name" not in rows
    assert ask("adapters", "diff", "bio@1", "bio@1").err == "bio@1 and bio@1 do not differ\n"


def test_what_a_composition_needs_is_not_removed(catalogue: Path, ask: Ask) -> None:
    refused = ask("adapters", "rm", "bio@1")
    assert refused.code == 5
    assert refused.err.startswith("error ZOO-E222: bio@1 is used by science@1")
    assert ask("compositions", "rm", "science", "-q").out == "science@1\n"
    assert ask("adapters", "rm", "bio@1").code == 0
    assert ask("adapters", "ls", "-q").out.split() == ["bio@2", "protein@1"]
    assert "bio@1" in ask("adapters", "ls", "--all", "-q").out.split()
    assert ask("adapters", "restore", "bio@1").code == 0
    assert "bio@1" in ask("adapters", "ls", "-q").out.split()


def test_an_alias_moves_only_from_where_it_was_expected(catalogue: Path, ask: Ask) -> None:
    moved = ask("adapters", "alias", "bio", "champion", "1", "--expect", "2", "--reason", "faster", "--json")
    assert moved.json == {"alias": "bio@champion", "version": 1, "previous": 2}
    refused = ask("adapters", "alias", "bio", "champion", "2", "--expect", "2")
    assert (refused.code, refused.err.partition(":")[0]) == (5, "error ZOO-E221")
    history = ask("adapters", "aliases", "bio", "--json").json
    assert [(move["version"], move["reason"]) for move in history] == [(2, None), (1, "faster")]
    assert ask("adapters", "alias", "bio", "champion").code == 2
    assert ask("adapters", "alias", "bio", "champion", "--remove", "--json").json["version"] is None


def test_bases_and_datasets_are_listed_and_shown(catalogue: Path, ask: Ask) -> None:
    assert ask("bases", "ls", "-q").out == "pico\n"
    assert ask("bases", "show", "pico", "--json").json["adapters"] == ["bio@1", "bio@2", "protein@1"]
    assert "parameter_count" in ask("bases", "show", "pico").out
    assert ask("datasets", "ls", "--domain", "bio", "-q").out == "bio.eval@1\n"
    assert ask("datasets", "show", "bio.eval", "--json").json["examples"] == 3
    assert "digest" in ask("datasets", "show", "bio.eval").out


def test_a_composition_is_shown_with_its_experts_and_its_report(catalogue: Path, ask: Ask) -> None:
    text = ask("compositions", "show", "science").out
    assert "protein@1" in text
    assert "0.710 / 50%" in text
    assert [line.split()[0] for line in text.splitlines() if " / 50%" in line] == ["uniform", "composed"]
    assert "ok   bio: loss 0.710" in text
    details = ask("compositions", "show", "science", "--json").json["method_details"]
    assert details["config"] == {"xlora_depth": 1}
    assert "config.xlora_depth  1" in text


def test_an_unknown_name_exits_with_3_and_suggests_the_nearest(catalogue: Path, ask: Ask) -> None:
    refused = ask("adapters", "show", "proteine")
    assert (refused.out, refused.code) == ("", 3)
    assert refused.err == (
        "error ZOO-E212: no adapter 'proteine'; did you mean protein?; list them with: zoo adapters ls\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("adapters", "ls", "--json", "-q"),
        ("adapters", "ls", "--sort", "name;select"),
        ("adapters", "ls", "--limit", "0"),
        ("adapters", "show", "../x"),
        ("nonsense",),
        ("jobs", "show", "9" * 30),
        ("train", "--name", "a b", "--base", "pico", "--data", "bio.eval", "--detach"),
        ("train", "--name", "x", "--base", "pico", "--data", "bio.eval", "--detach", "--priority", "9" * 20),
        ("train", "--name", "x", "--base", "pico", "--data", "bio.eval", "--detach", "--deadline", "99999d"),
        ("eval", "bio", "--data", "x=bio.eval", "--data", "x=bio.eval", "--detach"),
        (*COMPOSE, "--name", "a/b"),
        (*COMPOSE, "--name", "x", "--data", "biology=bio.eval"),
        (*COMPOSE, "--name", "x", "--head", '{"nope": 1}'),
        (*COMPOSE, "--name", "x", "--head", '{"top_k_lora": 3}'),
        (*COMPOSE, "--name", "x", "--mixture-steps", "-1"),
    ],
)
def test_misuse_exits_with_2_and_prints_no_data(
    arguments: tuple[str, ...], catalogue: Path, ask: Ask
) -> None:
    refused = ask(*arguments)
    assert (refused.out, refused.code) == ("", 2)
    assert refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            (*TRAIN, "--learning-rate", "7"),
            "ZOO-E401: --learning-rate must be a number above 0 to 1, got 7.0",
        ),
        (
            (*TRAIN, "--warmup-steps", "9", "--steps", "3"),
            "--warmup-steps must be at most the 3 steps, got 9",
        ),
        ((*TRAIN, "--domain", ""), "ZOO-E401: --domain must be"),
        ((*TRAIN, "--deadline", "soon"), "ZOO-E401: --deadline must be a time such as 90s"),
        (("eval", "bio", "bio", "--data", "bio.eval"), "ZOO-E401: SUBJECTS must be a list"),
        (("eval", "bio", "--data", "=bio.eval"), "ZOO-E401: --data must be"),
        (("eval", "bio", "--data", "bio.eval", "--limit", "0"), "ZOO-E401: --limit must be"),
        ((*COMPOSE, "--name", "x", "--mixture-steps", "-1"), "ZOO-E401: --mixture-steps must be"),
        (
            (*COMPOSE, "--name", "x", "--head", '{"xlora_depth": 0}'),
            "ZOO-E301: --head xlora_depth must be",
        ),
        (
            (*COMPOSE, "--name", "x", "--head", '{"xlora_dept": 2}'),
            "ZOO-E301: --head xlora_dept must be",
        ),
        (("adapters", "ls", "--sort", "size"), "ZOO-E234: --sort must be name, created, eval:"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_option(
    arguments: tuple[str, ...], said: str, catalogue: Path, ask: Ask
) -> None:
    refused = ask(*arguments)
    assert (refused.out, refused.code) == ("", 2)
    assert said in refused.err


@pytest.mark.parametrize(
    "name", ["prtein.train.jsonl", "{folder}/prtein.train.jsonl", "{folder}/prtein.train"]
)
def test_a_file_that_is_not_there_is_said_to_be_no_file(
    name: str, catalogue: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "protein.train.jsonl")
    monkeypatch.chdir(tmp_path)
    refused = ask(
        "train", "--name", "x", "--base", "pico", "--data", name.format(folder=tmp_path), "--detach"
    )
    assert refused.code == 3
    assert refused.err.startswith("error ZOO-E217: no dataset file")
    assert f"no such file in {tmp_path}; did you mean protein.train.jsonl?" in refused.err


@pytest.mark.parametrize(
    "wrong",
    [
        ("train", "--name", "x", "--base", "nope"),
        ("train", "--name", "x", "--base", "pico", "--rank", "0"),
        ("train", "--name", "x y", "--base", "pico"),
        ("train", "--name", "x", "--base", "pico", "--eval-data", "nope"),
        ("eval", "nope"),
        ("eval", "bio", "--limit", "0"),
        ("eval", "bio", "--data", "nope"),
    ],
)
def test_a_request_that_is_refused_registers_no_file(
    wrong: tuple[str, ...], catalogue: Path, ask: Ask, tmp_path: Path
) -> None:
    file = write_dataset(tmp_path / "new.train.jsonl")
    assert ask(*wrong, "--data", str(file), "--detach").code in (2, 3)
    assert ask("datasets", "ls", "-q").out == "bio.eval@1\n"


def test_a_file_of_another_ending_is_taken_for_what_it_is(catalogue: Path, ask: Ask, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "rows.json")
    assert ask("register", "dataset", str(file), "-q").out == "rows@1\n"


def test_an_invalid_example_is_named_with_its_file(catalogue: Path, ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"messages": []}\n')
    for refused in (ask("register", "dataset", str(file)), ask("eval", "bio", "--data", str(file))):
        assert refused.code == 1
        assert f"error ZOO-E260: {file}, example 1 (line 1): expected a list of messages" in refused.err


def test_a_sort_by_a_score_that_nothing_has_is_refused_with_those_there_are(
    catalogue: Path, ask: Ask
) -> None:
    refused = ask("adapters", "ls", "--sort", "eval:nope")
    assert (refused.out, refused.code) == ("", 2)
    assert refused.err == (
        "error ZOO-E234: --sort must be a score that an adapter has: eval:bio:loss, got 'eval:nope:loss'\n"
    )


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("scienze", "E218: no composition, adapter or base model 'scienze'; did you mean science?"),
        ("pica", "E218: no composition, adapter or base model 'pica'; did you mean pico?"),
        ("science@9", "E214: no composition 'science@9': science has version 1"),
        ("bio@9", "E212: no adapter 'bio@9': bio has version 1, 2"),
        ("bio@best", "E216: no alias 'bio@best'"),
        ("pico@9", "E211: no base model 'pico@9': base models have neither versions"),
        ("pica@9", "E218: no composition, adapter or base model 'pica@9'; did you mean pico?"),
    ],
)
def test_a_missing_subject_is_reported_by_its_kind(
    subject: str, said: str, catalogue: Path, ask: Ask
) -> None:
    for refused in (ask("eval", subject, "--data", "bio.eval"), ask("generate", subject, "Why?")):
        assert (refused.out, refused.code) == ("", 3)
        assert refused.err.startswith(f"error ZOO-{said}")


def test_adapters_are_listed_by_commas_with_or_without_blanks(catalogue: Path, ask: Ask) -> None:
    rows = ask(*COMPOSE, "--adapters", "bio@1, protein", "--name", "x", "--json").json
    assert [row["expert"] for row in rows[:2]] == ["bio@1", "protein@1"]


def test_a_dry_run_speaks_to_people_and_scripts(catalogue: Path, ask: Ask) -> None:
    assert "together" in ask(*COMPOSE, "--name", "x").out
    rows = ask(*COMPOSE, "--name", "x", "--json").json
    assert [row["expert"] for row in rows[:3]] == ["bio@1", "protein@1", "together"]
    assert ask(*COMPOSE, "--name", "x", "-q").out.split() == [row["expert"] for row in rows]


@pytest.mark.parametrize("option", ["--kind", "--state"])
def test_a_filter_that_no_job_can_meet_is_refused_with_the_choices(home: Path, ask: Ask, option: str) -> None:
    refused = ask("jobs", "ls", option, "trian")
    assert (refused.out, refused.code) == ("", 2)
    assert f"Invalid value for '{option}': 'trian' is not one of " in refused.err


def test_cancelling_what_has_ended_says_so(home: Path, ask: Ask) -> None:
    with Registry.open(Settings.from_env(os.environ)) as registry:
        job = registry.jobs.submit("train", {"name": "bio"})
        claim = registry.jobs.claim(job.id, owner="here", lease_s=60)
        assert claim is not None
        registry.jobs.finish(job.id, fence=claim.fence, state="succeeded", reason="ok")
    assert "nothing to cancel" in ask("jobs", "cancel", str(job.id)).err


def test_jobs_are_listed_shown_cancelled_and_retried(home: Path, ask: Ask) -> None:
    with Registry.open(Settings.from_env(os.environ)) as registry:
        job = registry.jobs.submit("train", {"name": "bio"})
    assert "train  bio   queued" in ask("jobs", "ls").out
    assert ask("jobs", "ls", "--before", str(job.id), "-q").out == ""
    assert ask("jobs", "show", str(job.id), "--json").json["spec"] == {"name": "bio"}
    assert "asked for" in ask("jobs", "show", str(job.id)).out
    assert ask("jobs", "wait", str(job.id), "--timeout", "0").code == 1
    assert ask("jobs", "cancel", str(job.id), "--json").json == {"job": job.id, "state": "cancelled"}
    assert ask("jobs", "wait", str(job.id)).code == 130
    assert ask("jobs", "ls", "--state", "queued", "-q").out == ""
    assert ask("jobs", "retry", str(job.id), "--json").json["state"] == "queued"
    assert ask("jobs", "show", "99").code == 3


def test_several_jobs_are_cancelled_in_one_json_document(home: Path, ask: Ask) -> None:
    with Registry.open(Settings.from_env(os.environ)) as registry:
        jobs = [registry.jobs.submit("train", {"name": name}).id for name in ("bio", "law")]
    said = ask("jobs", "cancel", *map(str, jobs), "--json").json
    assert said == [{"job": job, "state": "cancelled"} for job in jobs]


def test_a_running_job_shows_step_loss_and_what_is_left(home: Path, ask: Ask) -> None:
    with Registry.open(Settings.from_env(os.environ)) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}).id
        registry.jobs.claim(job, owner="me", lease_s=60)
        progress = {"phase": "training", "step": 40, "total": 80, "loss": 1.25, "eta_s": 125.0}
        registry.jobs.beat(job, fence=1, lease_s=60, progress=progress)
    for command in (("ls",), ("show", str(job))):
        assert "training 40/80, loss 1.250, 2 min left" in ask("jobs", *command).out
    assert ask("jobs", "show", str(job), "--json").json["progress"] == progress
    with Registry.open(Settings.from_env(os.environ)) as registry:
        registry.jobs.finish(job, fence=1, state="succeeded", reason="ok")
    assert "training" not in ask("jobs", "ls").out


def test_logs_are_one_json_document_and_another_machines_are_said_to_be_there(
    home: Path, ask: Ask, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    log.write_text("one\ntwo\n")
    with Registry.open(Settings.from_env(os.environ)) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}).id
        assert ask("jobs", "logs", str(job), "--json").json["text"] == ""
        registry.jobs.claim(job, owner="gpu7/boot/5/1", lease_s=60)
        registry.jobs.set_log(job, str(log), 1)
        said = ask("jobs", "logs", str(job), "--json", "--tail", "1").json
        assert said == {"job": job, "state": "running", "host": "gpu7", "text": "two\n"}
        assert ask("jobs", "logs", str(job), "-q").out == "one\ntwo\n"
        log.unlink()
        for follow in ((), ("-f",)):
            elsewhere = ask("jobs", "logs", str(job), *follow)
            assert (elsewhere.code, elsewhere.out) == (1, "")
            assert f"job {job} ran on gpu7" in elsewhere.err
            assert "ZOO_HOME/jobs" in elsewhere.err


def test_waiting_for_several_jobs_ends_by_the_gravest(home: Path, ask: Ask) -> None:
    with Registry.open(Settings.from_env(os.environ)) as registry:
        waiting, cancelled, failed, done, runs = (
            str(registry.jobs.submit("train", {"name": name}).id) for name in "abcde"
        )
        registry.jobs.request_cancel(int(cancelled))
        for job in (failed, done, runs):
            registry.jobs.claim(int(job), owner="here", lease_s=60)
        registry.jobs.finish(int(failed), fence=1, state="failed", reason="error")
        registry.jobs.finish(int(done), fence=1, state="succeeded", reason="ok")
    now = ("--timeout", "0")
    for jobs, code in (
        ((done,), 0),
        ((done, waiting), 1),
        ((runs, done), 1),
        ((cancelled, runs), 130),
        ((failed, cancelled, done), 7),
    ):
        assert ask("jobs", "wait", *jobs, *now).code == code
    assert ask("jobs", "wait", waiting, cancelled, failed, *now).code == 7
    assert ask("jobs", "wait", waiting, cancelled, *now).code == 130
    assert ask("jobs", "wait", waiting, *now).code == 1
    hints = ask("jobs", "wait", waiting, cancelled, failed, *now).err.splitlines()
    assert [hint.partition(": ")[2] for hint in hints] == [
        f"zoo jobs wait {waiting}",
        f"zoo jobs logs {failed}",
    ]


def test_a_job_asked_for_again_says_what_of_the_new_request_does_not_hold(catalogue: Path, ask: Ask) -> None:
    assert "asked for before" not in ask(*TRAIN, "--queue", "cpu", "--priority", "5").err
    assert "asked for before" not in ask(*TRAIN, "--priority", "5").err
    again = ask(*TRAIN, "--queue", "gpu", "--priority", "0", "--deadline", "1h")
    assert (
        "job 1 was asked for before, so these do not hold: --queue (it is on cpu), --priority (it has 5),"
        " --deadline (it has no deadline); for another, zoo jobs cancel 1," in again.err
    )
    assert "asked for before" not in ask(*TRAIN, "--priority", "7", "--force").err
    assert [row["priority"] for row in ask("jobs", "ls", "--json").json] == [7, 5]


def test_a_worker_of_a_gpu_that_no_machine_has_does_not_start(home: Path, ask: Ask) -> None:
    refused = ask("worker", "--queue", "gpu", "--gpu", "-1")
    assert (refused.out, refused.code) == ("", 2)
    assert "E401: --gpu must be different GPUs of this machine" in refused.err


@pytest.mark.parametrize("command", ["worker", "relay"])
def test_a_missing_broker_library_is_reported_with_how_to_install_it(
    home: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("ZOO_BROKER_URL", "redis://127.0.0.1:9/0")
    for module in ("workers.app", "workers.broker.wake_ups"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "celery", None)
    refused = ask(command)
    assert (refused.out, refused.code) == ("", 6)
    assert "E418: ZOO_BROKER_URL is set, but celery is not installed" in refused.err


def test_a_relay_without_a_broker_does_not_start(home: Path, ask: Ask) -> None:
    refused = ask("relay")
    assert (refused.out, refused.code) == ("", 6)
    assert "E418: ZOO_BROKER_URL is not set" in refused.err


def test_workers_are_listed_with_what_they_do(home: Path, ask: Ask) -> None:
    assert "zoo worker" in ask("workers", "ls").err
    with Registry.open(Settings.from_env(os.environ)) as registry:
        registry.workers.announce(
            "box/boot/7/1", host="box", process_id=7, queues=["gpu", "cpu"], gpu="0", state="working"
        )
        assert [row["state"] for row in ask("workers", "ls", "--json").json] == ["idle"]
        job = registry.jobs.submit("train", {"name": "bio"})
        registry.jobs.claim(job.id, owner="me", worker="box/boot/7/1", lease_s=60)
    (row,) = ask("workers", "ls", "--json").json
    assert (row["state"], row["job"], row["queues"], row["gpu"]) == ("running", job.id, ["gpu", "cpu"], "0")
    assert "box   7           gpu, cpu  0    running" in ask("workers", "ls").out


def test_a_job_whose_lease_ran_out_is_listed_as_lost(home: Path, ask: Ask) -> None:
    with Registry.open(Settings.from_env(os.environ)) as registry:
        job = registry.jobs.submit("train", {"name": "bio"})
        registry.jobs.claim(job.id, owner="gone", lease_s=-1)
    assert " lost " in ask("jobs", "ls").out
    assert ask("jobs", "ls", "--json").json[0]["state"] == "running"


@pytest.mark.processes
def test_logs_are_followed_until_the_job_ends(home: Path, ask: Ask, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("one\ntwo\n")
    with Registry.open(Settings.from_env(os.environ)) as registry:
        job = registry.jobs.submit("train", {"name": "bio"})
        assert "has not written anything yet" in ask("jobs", "logs", str(job.id)).err
        assert [ask("jobs", "logs", str(job.id), how).err for how in ("-q", "--json")] == ["", ""]
        claimed = registry.jobs.claim(job.id, owner="me", lease_s=60)
        assert claimed is not None
        registry.jobs.set_log(job.id, str(log), claimed.fence)
        assert ask("jobs", "logs", str(job.id), "--tail", "1").out == "two\n"
        follower = subprocess.Popen(
            [sys.executable, "zoo.py", "jobs", "logs", str(job.id), "-f", "--tail", "1"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert follower.stdout is not None
        assert follower.stdout.readline() == "two\n"
        with log.open("a") as stream:
            stream.write("three\nfour\n")
        assert [follower.stdout.readline() for _ in range(2)] == ["three\n", "four\n"]
        registry.jobs.finish(job.id, fence=claimed.fence, state="succeeded", reason="ok")
        assert follower.wait(timeout=20) == 0
        follower.stdout.close()
    followed = ask("jobs", "logs", str(job.id), "-f", "--json")
    assert followed.json == {"job": job.id, "text": "one\ntwo\nthree\nfour\n"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ZOO_DATABASE_URL", "sqlite:////nowhere/else/zoo.db", "mkdir -p /nowhere/else"),
        ("ZOO_ARTIFACT_ROOT", "nonsense://bucket", "nothing here opens nonsense://"),
    ],
)
def test_an_unusable_url_is_a_wrong_setting(
    name: str, value: str, said: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    refused = ask("adapters", "show", "bio")
    assert (refused.out, refused.code) == ("", 2)
    assert refused.err.startswith(f"error ZOO-E233: {name}")
    assert said in refused.err
    if name == "ZOO_DATABASE_URL":
        assert ask("adapters", "ls") == refused


def test_an_unexpected_error_is_owned_up_to_and_debug_shows_where(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(queries, "adapters", broken)
    said = []
    for debug in ("", "1"):
        monkeypatch.setenv("ZOO_DEBUG", debug)
        with pytest.raises(SystemExit) as ended:
            zoo.main(["adapters", "ls"])
        assert ended.value.code == 1
        said.append(capsys.readouterr().err)
    assert said[0] == (
        "error: ZeroDivisionError: by nothing\nThis is a bug in zoo; ZOO_DEBUG=1 shows where\n"
    )
    assert "Traceback" in said[1]


def test_a_file_that_is_no_database_is_refused_and_debug_shows_where(
    home: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.joinpath("home").mkdir()
    (home / "zoo.db").write_text("this is no database, whatever its name says" * 10)
    for refused in (ask("adapters", "ls"), ask("adapters", "show", "bio")):
        assert refused.code == 2
        assert refused.err.startswith(f"error ZOO-E233: {home / 'zoo.db'} is not a SQLite database")
    monkeypatch.setenv("ZOO_DEBUG", "1")
    assert "Traceback" in ask("adapters", "ls").err


def test_logs_of_a_zoo_that_was_moved_are_found_where_it_is_now(
    home: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = home / "jobs" / "1" / "log.txt"
    with Registry.open(Settings.from_env(os.environ)) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}).id
        claim = registry.jobs.claim(job, owner="me", lease_s=60)
        assert claim is not None
        registry.jobs.set_log(job, str(log), claim.fence)
        assert registry.jobs.get(job).log_path == str(log)
    log.parent.mkdir(parents=True)
    log.write_text("learnt\n")
    moved = home.rename(home.with_name("moved"))
    monkeypatch.setenv("ZOO_HOME", str(moved))
    assert ask("jobs", "logs", str(job)).out == "learnt\n"
    assert ask("jobs", "show", str(job), "--json").json["log_path"] == str(moved / "jobs" / "1" / "log.txt")


def test_an_empty_name_in_a_list_is_a_slip_that_is_refused(catalogue: Path, ask: Ask) -> None:
    for option, given in (("--adapters", "bio@1,,protein"), ("--target-modules", "q_proj,")):
        command = COMPOSE if option == "--adapters" else TRAIN
        refused = ask(*command, "--name", "x", option, given)
        assert (refused.out, refused.code) == ("", 2)
        assert f"Invalid value for {option}: expected names with commas" in refused.err


def test_one_expert_alone_is_composed_with_a_warning(catalogue: Path, ask: Ask) -> None:
    data = ("--data", "biology=bio.eval", "--eval-data", "biology=bio.eval")
    alone = ask("compose", "--name", "x", "--dry-run", *data, "--adapters", "bio@1")
    assert (alone.code, "WARN ZOO-W206: one expert" in alone.out) == (0, True)
    assert "1 expert of pico" in alone.out
    assert "W206" not in ask(*COMPOSE, "--name", "x").out


def test_a_warm_up_that_was_not_asked_for_is_no_longer_than_training(catalogue: Path, ask: Ask) -> None:
    asked = ask(*TRAIN, "--steps", "3", "--json")
    spec = ask("jobs", "show", str(asked.json["job"]), "--json").json["spec"]
    assert (spec["steps"], spec["warmup_steps"]) == (3, 3)
    assert "--warmup-steps must be at most" in ask(*TRAIN, "--steps", "3", "--warmup-steps", "10").err


@pytest.mark.processes
def test_an_unknown_subject_is_reported_before_torch_is_imported(catalogue: Path) -> None:
    for command in (["generate", "nope", "Why?"], ["eval", "nope", "--data", "bio.eval"]):
        code = (
            "import sys, zoo\n"
            f"try: zoo.main({command})\n"
            "except SystemExit as ended: assert ended.code == 3\n"
            "assert 'torch' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_a_path_with_an_equals_sign_is_a_file_and_a_warning_on_record_is_shown(
    catalogue: Path, tmp_path: Path, ask: Ask
) -> None:
    (tmp_path / "a=b").mkdir()
    line = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
    file = tmp_path / "a=b" / "twice.eval.jsonl"
    file.write_text(f"{line}\n" * 2)
    assert "note: 1 of 2 examples repeat an earlier one" in ask("register", "dataset", str(file)).err
    assert ask("eval", "bio", "--data", str(file), "--detach", "-q").code == 0
    assert ask("jobs", "ls", "--json").json[0]["spec"]["datasets"] == {"twice": "twice.eval@1"}
