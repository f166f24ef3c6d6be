"""What the source never does: run what a file holds, hand words to a shell, or tell a token."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medsam_adapter

ROOT = Path(medsam_adapter.__file__).parent
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "dill.load", "joblib.load", "tempfile.mktemp",
    "shutil.unpack_archive", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all",
    "torch.hub.load", "pandas.read_pickle",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall"}  # an archive says where its members go
SAFE_WITH = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
YAML_LOADER = "data/plain_yaml.py"  # the one place that may choose a loader: a subclass of SafeLoader


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def offences(source: str, name: str = "module.py") -> list[str]:
    """What is wrong with a source file, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        given = {word.arg: word.value for word in node.keywords if word.arg}
        words = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
        is_wrong = called in FORBIDDEN or called.rpartition(".")[2] in FORBIDDEN_METHODS
        if called in SAFE_WITH:
            key, value = SAFE_WITH[called]
            is_wrong |= key not in words or words[key] is not value
        is_wrong |= called == "yaml.load" and name != YAML_LOADER
        is_wrong |= "trust_remote_code" in given or "shell" in given and words.get("shell") is not False
        is_wrong |= called == "Image.open" and "formats" not in given
        if is_wrong:
            found.append(f"{name}:{node.lineno}: {ast.unparse(node)[:100]}")
    return found


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_source_runs_nothing_that_it_reads(file):
    assert not offences(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)))


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "exec(open(f).read())", "os.system('ls')", "pickle.loads(b)", "pickle.load(file)",
        "torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=safe)", "np.load(f)",
        "np.load(f, allow_pickle=True)", "yaml.load(text, Loader)", "yaml.unsafe_load(text)", "tar.extractall(folder)",
        "AutoModel.from_pretrained(n, trust_remote_code=True)", "subprocess.run(words, shell=True)", "Image.open(f)",
        "subprocess.run(words, shell=is_shell)", "tempfile.mktemp()",
    ],
)  # fmt: skip
def test_the_check_sees(line):
    assert offences(line)


@pytest.mark.parametrize(
    "line",
    ["torch.load(f, weights_only=True)", "np.load(f, allow_pickle=False)", "yaml.safe_load(t)", "model.eval()",
     "subprocess.run(words)", "Image.open(f, formats=FORMATS)", "re.compile(x)", "torch.compile(m)"],
)  # fmt: skip
def test_the_check_lets_pass(line):
    assert not offences(line)


def test_weights_are_asked_for_as_safetensors():
    """transformers would fall back on a pickle."""
    text = (ROOT / "modeling_msa.py").read_text()
    assert 'kwargs["use_safetensors"] = True' in text
    assert "load_file(" in (ROOT / "adapters/files.py").read_text()


SECRET = "hf_ThisIsTheTokenOfATest0123456789"


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return SECRET


def test_no_token_in_errors_or_representations(secret, tmp_path, capfd, caplog):
    from medsam_adapter import MSAModel
    from medsam_adapter.errors import MSAError
    from medsam_adapter.several_adapters import LoadedAdapter

    caplog.set_level("DEBUG")
    said = []
    for name in ("nobody-here/no-such-model", str(tmp_path)):
        with pytest.raises((OSError, ValueError, MSAError)) as error:
            MSAModel.from_pretrained(name, token=secret, local_files_only=True)
        said += [str(error.value), repr(error.value)]
    said += [repr(LoadedAdapter("a/b", {"token": secret, "revision": "main"})), caplog.text, *capfd.readouterr()]
    assert not [text for text in said if secret in text]


def test_no_token_in_what_a_run_writes(secret):
    from medsam_adapter.training.recipe import Recipe
    from medsam_adapter.training.run_folder import versions

    assert secret not in Recipe().to_yaml() + repr(Recipe()) + repr(versions())
