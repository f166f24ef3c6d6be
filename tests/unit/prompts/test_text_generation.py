"""Asking a language model for texts: a chat that is made up, a tiny model that is real, a server that is real."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from medsam_adapter.errors import CheckpointError, DataError, PromptError
from medsam_adapter.prompts.text_bank import TextBank
from medsam_adapter.prompts.text_files import SHIPPED
from medsam_adapter.prompts.text_generation import append_texts, endpoint_chat, generate_texts, local_chat

GOOD = [f"Mark the kneecap, {word} example." for word in "one two three four five six seven eight nine".split()]


@pytest.fixture(scope="module")
def bank() -> TextBank:
    return TextBank.load()


def scripted(*answers: str):
    """A chat that gives these answers in turn, then the last one again, and keeps what it was asked."""

    def chat(messages):
        chat.asked.append(messages)
        return answers[min(len(chat.asked), len(answers)) - 1]

    chat.asked = []
    return chat


# -- asking ------------------------------------------------------------------------------------------------------------


def test_numbers_bullets_quotes_and_talk_around_the_sentences_are_taken_off():
    answer = """<think>The patella ... a patella?</think>
    Sure! Here are texts about the patella:
    # Patella

    1. The patella is a bone.
    2) "Where is the patella?"
    - *  **Segment the patella.**
    • “a fractured patella”
    (4) 1.5 cm below the patella
    ```
    """
    accepted, rejected = generate_texts("patella", [], scripted(answer), 9, max_rounds=1)
    assert accepted == [
        "The patella is a bone.", "Where is the patella?", "Segment the patella.", "a fractured patella",
        "1.5 cm below the patella",
    ]  # fmt: skip
    assert rejected == []


def test_what_breaks_a_rule_is_left_out_with_its_reason(bank):
    lines = [
        "The bright spot in the middle.",
        "Segment the optic disc.",
        "The optic disc surrounds the optic cup.",
        "optic disc " + "very " * 40,
        "Look at the optic nerve head now.",
        "look at the OPTIC nerve-head, now!",
        "a papilla without oedema",
    ]
    accepted, rejected = generate_texts(
        "Optic_Disc", ["papilla"], scripted("\n".join(lines)), 9, bank=bank, max_rounds=1
    )
    assert accepted == ["Look at the optic nerve head now.", "a papilla without oedema"]
    reasons = dict(rejected)
    assert "does not name" in reasons[lines[0]] and "in the bank" in reasons[lines[1]]
    assert "another target: optic cup" in reasons[lines[2]] and "42 words" in reasons[lines[3].strip()]
    assert "given before" in reasons[lines[5]] and len(rejected) == 5


def test_names_of_a_union_are_names_of_another_target_too(bank):
    chat = scripted("the left kidney among the kidneys\nthe left kidney beside both adrenals\na fine left kidney")
    accepted, rejected = generate_texts("left kidney", [], chat, 9, bank=bank, max_rounds=1)
    assert accepted == ["a fine left kidney", ] and len(rejected) == 2  # fmt: skip


def test_a_new_target_may_not_name_those_of_its_region(bank):
    chat = scripted("a colon under the liver")
    assert generate_texts("colon", [], chat, 1, bank=bank, region="abdomen", max_rounds=1)[0] == []
    assert generate_texts("colon", [], chat, 1, bank=bank, region="elsewhere", max_rounds=1)[0] == [
        "a colon under the liver"
    ]


def test_it_asks_again_until_there_are_enough():
    chat = scripted("\n".join(GOOD[:2]) + "\nno name here", "\n".join(GOOD[:3]), "\n".join(GOOD))
    accepted, _ = generate_texts("patella", ["kneecap"], chat, 5)
    assert accepted == GOOD[:5] and len(chat.asked) == 3
    first, second = chat.asked[0][1]["content"], chat.asked[1][1]["content"]
    assert "5 different" in first and "patella; kneecap" in first and chat.asked[0][0]["role"] == "system"
    assert "3 different" in second and GOOD[0] in second and "no name here (it does not name the target)" in second


def test_it_stops_after_some_rounds():
    chat = scripted("nothing of use")
    accepted, rejected = generate_texts("patella", [], chat, 2)
    assert accepted == [] and len(chat.asked) == 4 and len(rejected) == 4


# -- saving ------------------------------------------------------------------------------------------------------------


def test_append_makes_a_file_that_the_bank_reads(tmp_path):
    file = append_texts(tmp_path / "new" / "knee.yaml", "patella", ["kneecap", "髌骨"], "knee", [*GOOD[:5], "分割髌骨"])
    text = file.read_text(encoding="utf-8")
    assert "髌骨" in text and "\\u" not in text
    target = TextBank.load(file).targets["patella"]
    assert target.names == ("patella", "kneecap", "髌骨") and target.region == "knee"
    # The last is a third one, but the only one with its name.
    assert len(target.train) == 4 and len(target.held_out) == 2 and "分割髌骨" in target.train
    assert list(file.parent.iterdir()) == [file]


def test_append_keeps_what_the_file_holds(tmp_path):
    file = append_texts(tmp_path / "knee.yaml", "patella", ["kneecap"], "knee", GOOD[:3])
    append_texts(file, "Patella", [], None, GOOD[3:6])
    append_texts(file, "tibia", [], "Knee", ["the tibia", "a tibia"])
    assert list(yaml.safe_load(file.read_text())["targets"]) == ["patella", "tibia"]
    targets = TextBank.load(file).targets
    assert targets["patella"].train == (*GOOD[:2], *GOOD[3:5]) and targets["patella"].held_out == (GOOD[2], GOOD[5])
    assert targets["tibia"].train == ("the tibia",) and targets["tibia"].held_out == ("a tibia",)


def test_append_to_a_shipped_target_goes_by_its_standard_name(tmp_path, bank):
    file = append_texts(
        tmp_path / "own.yaml", "optic disk", ["blind patch"], None, ["my blind patch", "one optic papilla"]
    )
    content = yaml.safe_load(file.read_text())
    assert content["region"] == "eye" and list(content["targets"]) == ["optic disc"]
    assert TextBank.load(file).targets["optic disc"].train[-1] == "my blind patch"
    assert len(TextBank.load(file).targets) == len(bank.targets)


@pytest.mark.parametrize(
    ("target", "region", "sentences", "said"),
    [
        ("patella", "knee", [GOOD[3], "no name"], "does not name the patella"),
        ("patella", "knee", [GOOD[3], GOOD[3].upper()], "these texts or the file"),
        ("femur", "knee", ["the femur"], "no held_out sentence"),
        ("patella", "leg", GOOD[3:], "one region"),
        ("liver", None, ["oh liver", "ah liver"], "region of the liver: abdomen"),
    ],
)
def test_what_would_break_the_file_leaves_it_as_it_was(tmp_path, target, region, sentences, said):
    file = append_texts(tmp_path / "knee.yaml", "patella", ["kneecap"], "knee", GOOD[:3])
    before = file.read_bytes()
    with pytest.raises(DataError, match=said) as caught:
        append_texts(file, target, [], region, sentences)
    assert caught.value.file == file and "partial" not in str(caught.value)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_append_refuses_a_new_target_without_region_and_shipped_files(tmp_path):
    with pytest.raises(DataError, match="say its region"):
        append_texts(tmp_path / "knee.yaml", "patella", [], None, GOOD)
    with pytest.raises(DataError, match="comes with the package"):
        append_texts(SHIPPED / "eye.yaml", "optic disc", [], None, ["my optic disc", "your optic disc"])
    assert list(tmp_path.iterdir()) == []


# -- a model on this machine -------------------------------------------------------------------------------------------


def save_tiny_model(folder, chat_template: str | None):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<unk>", "</s>", *"the a knee patella is here".split()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=1, pad_token_id=1, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def test_a_local_chat_answers_by_its_seed(tmp_path, quiet):
    import torch

    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    model = save_tiny_model(tmp_path, template)
    messages = [{"role": "user", "content": "the patella"}]
    state = torch.get_rng_state()
    answers = {}
    for seed in (0, 0, 1):
        chat = local_chat(model, seed=seed, temperature=2.0, max_new_tokens=24)
        now = [chat(messages), chat(messages)]
        assert answers.setdefault(seed, now) == now and all(isinstance(text, str) for text in now)
    assert answers[0][0] != answers[0][1] == answers[1][0]  # the second answer of seed 0 is drawn with seed 1
    assert torch.equal(torch.get_rng_state(), state)
    greedy = [local_chat(model, seed=seed, temperature=0, max_new_tokens=8)(messages) for seed in (0, 1)]
    assert greedy[0] == greedy[1]


def test_a_local_model_that_is_none(tmp_path, quiet):
    with pytest.raises(CheckpointError, match="cannot be opened as a language model"):
        local_chat(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="chat template"):
        local_chat(save_tiny_model(tmp_path / "base", None))


# -- a server ----------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Answers /v1/chat/completions with `reply`, (status, body), and keeps (path, authorization, request)."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        status, content = self.server.reply
        if self.path.partition("?")[0] != "/v1/chat/completions":
            status, content = 404, {"error": "no such page"}
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def answer(text: str | None) -> dict:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m", "system_fingerprint": "",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"completion_tokens": 1, "prompt_tokens": 1, "total_tokens": 2},
    }  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.asked, made.reply = [], (200, answer("the kneecap"))
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/chat/completions"])
def test_an_endpoint_is_asked_as_openai_is(server, path):
    server.reply = (200, answer("\n".join(GOOD)))
    chat = endpoint_chat(server.url + path, "some-model", "key-1", seed=7, temperature=0.3)
    assert generate_texts("patella", ["kneecap"], chat, 4)[0] == GOOD[:4]
    chat([{"role": "user", "content": "more"}])
    where, key, request = server.asked[0]
    assert where == "/v1/chat/completions" and key == "Bearer key-1"
    assert (request["model"], request["seed"], request["temperature"]) == ("some-model", 7, 0.3)
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert server.asked[1][2]["seed"] == 8


def test_without_a_key_the_saved_token_stays_here(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils.get_token", lambda: "saved-token")
    monkeypatch.setattr("huggingface_hub.inference._providers.hf_inference.get_token", lambda: "saved-token")
    monkeypatch.setenv("HF_TOKEN", "saved-token")
    endpoint_chat(server.url)([{"role": "user", "content": "hello"}])
    assert "saved-token" not in server.asked[0][1]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, {"error": "Incorrect API key provided: key-1"}), "401"),
        ((500, b"boom"), "500"),
        ((200, b"<html>a web page</html>"), "does not answer as it should"),
        ((200, {"error": "model is loading"}), "endpoint"),
        ((200, answer(None) | {"choices": []}), "no text"),
        ((200, answer(None)), "no text"),
        ((200, answer("  ")), "no text"),
        ((200, []), "endpoint"),
    ],
)
def test_an_endpoint_that_answers_badly(server, reply, said):
    server.reply = reply
    with pytest.raises(PromptError, match=said) as caught:
        endpoint_chat(server.url, api_key="key-1")([{"role": "user", "content": "hello"}])
    assert "key-1" not in str(caught.value) and caught.value.file == server.url


def test_passwords_in_a_url_are_not_shown(server):
    server.reply = (500, b"boom")
    chat = endpoint_chat(server.url.replace("http://", "http://me:secret@") + "/v1?key=secret", api_key="key-1")
    with pytest.raises(PromptError, match="500") as caught:
        chat([{"role": "user", "content": "hello"}])
    assert "secret" not in str(caught.value)


def test_an_endpoint_that_is_not_there(server):
    server.shutdown()
    server.server_close()
    chat = endpoint_chat(server.url.replace("http://", "http://me:secret@") + "/v1?key=secret", api_key="key-1")
    with pytest.raises(PromptError, match="does not answer") as caught:
        chat([{"role": "user", "content": "hello"}])
    assert "secret" not in str(caught.value) and "key-1" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://host/v1", "http://", "http://host:port/v1", "me:secret@x"]
)
def test_an_endpoint_that_is_no_url(url):
    with pytest.raises(PromptError, match="no URL") as caught:
        endpoint_chat(url)
    assert "secret" not in str(caught.value)
