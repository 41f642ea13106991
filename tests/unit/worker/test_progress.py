"""What a starting vLLM's log tells: most lines are from a real one, vLLM 0.32 on the CPU."""

import pytest

from services.worker.progress import LogTail, failure, progress, read_tail

STARTING = """\
W1121 10:52:57.367000 21093 torch/_library/triton.py:53] Triton not available
(APIServer pid=21093) INFO 11-21 10:52:57 [api_utils.py:347]   █▄█▀ █     █     █     █  model   models/chat
(APIServer pid=21093) INFO 11-21 10:52:57 [api_utils.py:286] non-default args: {'port': 18091, 'api_key': '***'}
(APIServer pid=21093) INFO 11-21 10:53:06 [model.py:733] Resolved architecture: LlamaForCausalLM
(APIServer pid=21093) WARNING 11-21 10:53:06 [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs
(EngineCore pid=21616) INFO 11-21 10:53:15 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'
(Worker pid=22820) INFO 11-21 10:53:30 [cpu_model_runner.py:68] Starting to load model models/chat...
Loading safetensors checkpoint shards:   0% Completed | 0/5 [00:00<?, ?it/s]
Loading safetensors checkpoint shards:  60% Completed | 3/5 [00:00<00:00, 43.88it/s]
(Worker pid=22820) INFO 11-21 10:53:30 [default_loader.py:501] Loading weights took 0.03 seconds
(EngineCore pid=21616) INFO 11-21 10:53:31 [kv_cache_utils.py:2327] CPU KV cache size: 16,384 tokens
(EngineCore pid=21616) INFO 11-21 10:53:31 [core.py:402] init engine (profile, warmup model) took 0.02 s
(APIServer pid=21093) INFO 11-21 10:53:32 [entry.py:140] Starting vLLM server on http://127.0.0.1:18091
""".splitlines()

STAGES = [
    "vLLM says: W1121 10:52:57.367000 21093 torch/_library/triton.py:53] Triton not available",
    "vLLM is starting: reading its settings",
    "vLLM is starting: starting its engine",
    "vLLM is starting: loading weights",
    "vLLM is starting: loading weights, 0 of 5 shards",
    "vLLM is starting: loading weights, 3 of 5 shards",
    "vLLM is starting: weights are loaded",
    "vLLM is starting: setting up its cache",
    "vLLM is starting: its engine is ready",
    "vLLM is starting: starting its server",
]


def test_a_start_from_its_first_line_to_its_last():
    told = [progress(STARTING[: end + 1]) for end in range(len(STARTING))]
    assert list(dict.fromkeys(told)) == STAGES


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        # as other versions write them, on GPUs and with Ray
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|████      | 27/67 [00:02<00:03]",
         "capturing graphs, 27 of 67"),
        ("(EngineCore_DP0 pid=7) INFO 09-01 10:00:00 [gpu_model_runner.py:3480] Graph capturing finished in 6 secs",
         "its engine is ready"),
        ("INFO 09-01 10:00:00 [monitor.py:34] torch.compile takes 21.51 s in total", "compiling the model"),
        ("\x1b[36m(RayWorkerWrapper pid=9, ip=10.0.0.2)\x1b[0m INFO 09-01 10:00:00 [a.py:1] Loading weights took 9",
         "weights are loaded"),
        # of the launch script
        ("2026-11-21 11:33:30 launch_vllm: attempt 1 of 2", "attempt 1 of 2"),
        ("2026-11-21 11:33:31 launch_vllm: starting vllm serve /shared/models/Downloading --port 56609",
         "its process begins"),
        ("2026-11-21 11:33:31 launch_vllm: Ray's head is here at 10.0.0.1:6379; to join: node2",
         "waiting for its nodes to join Ray"),
        ("2026-11-21 11:33:40 launch_vllm: 4 nodes have joined Ray", "its 4 nodes have joined Ray"),
    ],
)  # fmt: skip
def test_other_stages(line, stage):
    assert progress([line]) == f"vLLM is starting: {stage}"


def test_a_log_that_tells_nothing():
    assert progress([]) == ""
    assert progress(["----", "  ", "▄▄ ▄█ █ version"]) == ""


@pytest.mark.parametrize(
    "line",
    [
        *("using API key sk-secret", "token=abc", "args: Namespace(api_key='x')", "hf_abcdefgh12"),
        *("ProxyError: cannot connect to http://me:hush@proxy:3128", "Authorization: Basic bWU6aHVzaA=="),
        "served with sk-abcdefgh12",
    ],
)
def test_a_line_that_may_hold_a_key_is_not_shown(line):
    assert progress(["Hello there", line]) == "vLLM says: Hello there"
    assert failure(["Hello there", line]) == "Hello there"


def test_what_is_shown_is_bounded_and_printable():
    assert progress(["x" * 5000]) == f"vLLM says: {'x' * 300}"
    assert progress(["a\x07b\u202ec"]) == "vLLM says: a b c"


FAILED = """\
(EngineCore pid=32015) ERROR 11-21 10:55:12 [core.py:1510]     raise RuntimeError(
(EngineCore pid=32015) ERROR 11-21 10:55:12 [core.py:1510] RuntimeError: Worker failed with error 'Available memory'
(EngineCore pid=32015) ERROR 11-21 10:55:16 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
""".splitlines()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (FAILED, "RuntimeError: Worker failed with error 'Available memory'"),
        (["  File x", "huggingface_hub.errors.HFValidationError: Repo id must use"],
         "huggingface_hub.errors.HFValidationError: Repo id must use"),
        (["usage: vllm serve", "vllm serve: error: argument --port: invalid int"],
         "vllm serve: error: argument --port: invalid int"),
        (["Loading", "Killed"], "Killed"),
        ([], ""),
    ],
)  # fmt: skip
def test_what_went_wrong(lines, said):
    assert failure(lines) == said


def test_the_end_of_a_log_is_that_of_the_present_run(tmp_path):
    log = tmp_path / "vllm.log"
    log.write_bytes(b"the run before\nthis run\n\n 10%\r 20%\r")
    assert read_tail(log, 15) == ["this run", " 10%", " 20%"]
    assert read_tail(tmp_path / "absent", 0) == []
    log.write_bytes(b"half a line" * 2000 + b"\nlast\n")
    assert read_tail(log, 0) == ["last"]


async def test_the_log_is_not_read_again_at_once(tmp_path):
    log = tmp_path / "vllm.log"
    log.write_text("one\n")
    tail = LogTail(log, lambda: 0)
    assert await tail.progress() == "vLLM says: one"
    log.write_text("two\n")
    assert await tail.progress() == "vLLM says: one"
    assert await tail.lines() == ["two"]
