"""What a process that serves constraints has loaded, seen from a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import grammar_corpus

FRONTEND = """
import sys
sys.path.append({support!r})
from grammar_corpus import SCHEMAS
from pathlib import Path
from lorax_serve.grammar.guide import GuideFactory
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.grammar.schema import json_schema_grammar

tokenizer = Path({tokenizer!r})
RegexCompiler(tokenizer, [2])
factory = GuideFactory(tokenizer, vocab_size=700, eos_token_ids=[2])
for schema in SCHEMAS.values():
    grammar = json_schema_grammar(schema, strict=True)
    factory.create(grammar.kind, grammar.payload, grammar.digest)
import json
print(json.dumps([len(SCHEMAS), sorted(sys.modules)]))
"""


def test_fifty_requests_load_neither_torch_nor_a_cache_on_disk(
    byte_level_json: Path, tmp_path: Path
) -> None:
    script = FRONTEND.format(
        support=str(Path(grammar_corpus.__file__).parent), tokenizer=str(byte_level_json)
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd=tmp_path,
    )
    served, modules = json.loads(done.stdout)
    assert served >= 50
    unwanted = {"torch", "transformers", "outlines", "diskcache", "cloudpickle"}
    assert unwanted.isdisjoint(modules)
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
