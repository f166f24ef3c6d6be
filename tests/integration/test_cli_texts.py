"""`msa texts`: what it prints, and that everything a user can get wrong ends with exit code 2 and one error."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medsam_adapter.cli.main import run
from medsam_adapter.cli.texts import _api_key
from medsam_adapter.prompts.text_bank import TextBank

KNEE = """\
region: knee
targets:
  patella:
    names: [patella, kneecap]
    train: [the patella, the kneecap]
    held_out: [Where is the kneecap?]
"""


@pytest.fixture
def knee(tmp_path):
    path = tmp_path / "knee.yaml"
    path.write_text(KNEE)
    return path


@pytest.fixture
def said(capsys, monkeypatch):
    """said(command) -> (exit code, output, errors)."""
    monkeypatch.delenv("MSA_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "140")

    def call(*command) -> tuple[int, str, str]:
        code = run(["texts", *map(str, command)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err and "unexpected" not in captured.err
        return code, captured.out, captured.err

    return call


@pytest.fixture
def server(monkeypatch):
    """An OpenAI-compatible server that gives its `answer` each time and keeps the keys it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.server.keys.append(self.headers["Authorization"])
            message = {"role": "assistant", "content": self.server.answer}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            data = json.dumps({"id": "1", "model": "m", "created": 0, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.keys, made.answer, made.url = [], "", f"http://127.0.0.1:{made.server_port}/v1"
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


# -- what it prints ----------------------------------------------------------------------------------------------------


def test_list_counts_the_sentences_of_each_target(said, knee):
    code, out, _ = said("list")
    bank = TextBank.load()
    assert code == 0 and f"{len(bank.targets)} targets and {len(bank.unions)} unions" in out
    row = next(line for line in out.splitlines() if line.startswith("│ thyroid nodule"))
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    nodule = bank.targets["thyroid nodule"]
    assert cells[1] == "thyroid" and "DDTI" in cells[2]
    assert cells[4:] == [str(len(nodule.train)), str(len(nodule.held_out))]
    assert "kneecap" not in out
    code, out, _ = said("list", "--bank", knee)
    assert code == 0 and "kneecap" in out and f"{len(bank.targets) + 1} targets" in out


def test_show_prints_every_sentence(said, knee):
    code, out, _ = said("show", "Optic-Disk")
    disc = TextBank.load().targets["optic disc"]
    assert code == 0 and all(sentence in out for sentence in disc.train + disc.held_out)
    assert out.startswith("optic disc\n") and "optic disc + optic cup" in out
    assert "Where is the kneecap?" in said("show", "kneecap", "--bank", knee)[1]


def test_check_passes_a_good_file(said, knee):
    code, out, err = said("check", knee)
    assert code == 0 and "no findings" in out and err == ""


def test_check_lists_all_findings(said, knee):
    knee.write_text(KNEE.replace("[the patella,", "[the bone, The kneecap!,"))
    code, out, err = said("check", knee)
    assert code == 2 and out == "" and "2 findings" in err
    assert "'the bone'" in err and "twice" in err and str(knee) in err


def test_generate_prints_saves_and_never_shows_the_key(said, server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    server.answer = "1. my patella\n2. a bone\n3. one kneecap\n4. two kneecap\n5. her patella\n6. his patella"
    file = tmp_path / "out" / "knee.yaml"
    command = ["generate", "--target", "patella", "--name", "kneecap", "--endpoint", server.url, "--count", 4]
    code, out, err = said(*command)
    assert code == 0 and out.split("\n")[:4] == ["my patella", "one kneecap", "two kneecap", "her patella"]
    assert "does not name the target: a bone" in err and list(tmp_path.iterdir()) == []
    code, out, err = said(*command, "--region", "knee", "-o", file)
    assert code == 0 and f"--bank {file}" in out and "secret" not in out + err
    patella = TextBank.load(file).targets["patella"]
    assert len(patella.train) == 3 and len(patella.held_out) == 1
    assert set(server.keys) == {"Bearer secret-key"}
    # What the file holds now is not new any more: one sentence of the answer is left.
    code, out, err = said(*command, "-o", file)
    assert code == 0 and "his patella" in out and "only 1 of 4" in err and "in the bank already" in err
    assert "his patella" in TextBank.load(file).targets["patella"].train


def test_a_key_goes_to_its_own_company_only(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "openai")
    monkeypatch.setenv("HF_TOKEN", "hf")
    assert _api_key("https://router.huggingface.co/v1") == _api_key("https://x.endpoints.huggingface.cloud") == "hf"
    assert _api_key("https://api.openai.com/v1") == _api_key("https://nothuggingface.co") == "openai"
    assert _api_key("https://huggingface.co.evil.org") == "openai"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert _api_key("http://127.0.0.1:8000") is None


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = {
    "list of nowhere": ("list --bank IN/nowhere.yaml", "IN/nowhere.yaml", "no such file"),
    "list of a broken file": ("list --bank IN/bad.yaml", "IN/bad.yaml: patella", "'the bone'"),
    "unknown target": ("show splene", "found: splene", "did you mean 'spleen'?"),
    "check of nowhere": ("check IN/nowhere.yaml", "IN/nowhere.yaml", "no such file"),
    "check of an empty folder": ("check IN/empty", "IN/empty", "without one"),
    "check of no YAML": ("check IN/broken.yaml", "IN/broken.yaml", "YAML"),
    "no language model": ("generate --target liver", "--model ID or --endpoint URL", "neither"),
    "two language models": ("generate --target liver --model a --endpoint http://a", "found: both"),
    "no target": ("generate --model a", "--target"),
    "one sentence": ("generate --target liver --model a --count 1", "--count"),
    "no URL": ("generate --target liver --endpoint localhost:8000", "no URL", "localhost:8000"),
    "nobody there": (
        "generate --target liver --endpoint http://127.0.0.1:1/v1",
        "http://127.0.0.1:1/v1",
        "server runs",
    ),
    "no such model": ("generate --target liver --model IN/nowhere", "IN/nowhere", "language model"),
    "new target without region": ("generate --target tibia --model a -o IN/new.yaml", "'tibia'", "--region"),
    "broken output": ("generate --target liver --model a -o IN/bad.yaml", "IN/bad.yaml: patella", "'the bone'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_is_refused(said, tmp_path, monkeypatch, name):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text(KNEE.replace("the patella", "the bone"))
    (tmp_path / "broken.yaml").write_text("region: [\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    command, *words = REFUSED[name]
    code, out, err = said(*(word.replace("IN/", f"{tmp_path}/") for word in command.split()))
    assert code == 2 and out == ""
    for text in words:
        assert text.replace("IN/", f"{tmp_path}/") in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_model_that_writes_nothing_of_use(said, server, tmp_path):
    server.answer = "I am sorry."
    file = tmp_path / "f.yaml"
    code, out, err = said("generate", "--target", "liver", "--endpoint", server.url, "-o", file)
    assert code == 2 and out == "" and "no usable sentence" in err and "4 sentences, all left out" in err
    assert not file.exists() and len(server.keys) == 4


def test_help_stays_light():
    code = (
        "import sys; from medsam_adapter.cli.main import run; run(['texts', '--help']);"
        "print(sorted({'yaml', 'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "generate" in result.stdout and result.stdout.strip().endswith("[]")
