"""A child's environment has what it needs to run, and no secret that it does not need."""

from workers.processes.child_environment import child_command, child_environment


def test_only_listed_names_are_passed_on() -> None:
    environ = child_environment(
        {
            "PATH": "/bin",
            "LC_ALL": "C",
            "CUDA_VISIBLE_DEVICES": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "ZOO_HOME": "/zoo",
            "ZOO_DATABASE_URL": "postgresql://zoo:secret@db/zoo",
            "ZOO_API_TOKEN": "secret",
            "HF_TOKEN": "secret",
            "PATHOLOGICAL": "no",
            "PYTHONSTARTUP": "/evil.py",
        }
    )
    assert "secret" not in "".join(environ.values())
    assert {"PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY", "ZOO_HOME"} <= set(environ)
    assert not {"PATHOLOGICAL", "PYTHONSTARTUP"} & set(environ)


def test_its_starter_names_the_further_variables_of_a_child() -> None:
    given = {"MLFLOW_TRACKING_TOKEN": "secret", "AWS_REGION": "eu"}
    assert child_environment(given, also=("MLFLOW_",))["MLFLOW_TRACKING_TOKEN"] == "secret"
    assert "AWS_REGION" not in child_environment(given, also=("MLFLOW_",))


def test_a_child_is_offline_and_counts_its_threads() -> None:
    environ = child_environment({"ZOO_THREADS": "3"})
    assert (environ["HF_HUB_OFFLINE"], environ["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    assert (environ["OMP_NUM_THREADS"], environ["MKL_NUM_THREADS"]) == ("3", "3")
    assert int(child_environment({})["OMP_NUM_THREADS"]) >= 1


def test_the_current_folder_is_not_imported_from() -> None:
    module = "workers.attempts.job_process"
    assert child_command(module, "x")[1:] == ["-P", "-m", module, "x"]
