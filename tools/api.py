#!/usr/bin/env python
"""Write down the public interface: a line for every name of `genmix.PUBLIC`, with its signature.

    python tools/api.py            write tests/api.txt
    python tools/api.py --check    write nothing, say what differs

The sources are parsed, nothing is imported, so the text is the same on every machine. Of a class it
holds the bases, the fields or the constructor's parameters, and the methods that `genmix.METHODS`
names; what it inherits from a class that is not public stands in its own lines.
"""

import argparse
import ast
import difflib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "tests" / "api.txt"
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def promised():
    "`PUBLIC` and `METHODS` of genmix/__init__.py."
    body = ast.parse((ROOT / "genmix" / "__init__.py").read_text(encoding="utf-8")).body
    found = {n.targets[0].id: n.value for n in body if isinstance(n, ast.Assign)}
    return ast.literal_eval(found["PUBLIC"]), ast.literal_eval(found["METHODS"])


def owner(node):
    "The class that a function is added to with @patch, or None."
    patched = any(ast.unparse(d).startswith("patch") for d in node.decorator_list)
    return ast.unparse(node.args.args[0].annotation).strip("'") if patched else None


class Module:
    """What a module defines: `names` (the last definition of each) and the `members` of its
    classes, patched ones as well."""

    def __init__(self, name):
        self.name, self.names, self.members, self.imports = name, {}, {}, {}
        path = ROOT / "genmix" / f"{name.replace('.', '/')}.py"
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node in body:
            if isinstance(node, ast.ClassDef):
                self.names[node.name] = node
                self.members[node.name] = {}
                for n in node.body:
                    if isinstance(n, FUNCTION):
                        self.members[node.name][n.name] = n
                    elif isinstance(n, ast.AnnAssign) and not ast.unparse(n.annotation).startswith(
                        "ClassVar"
                    ):
                        self.members[node.name][n.target.id] = n
            elif isinstance(node, FUNCTION):
                if cls := owner(node):
                    self.members.setdefault(cls, {})[node.name] = node
                else:
                    self.names[node.name] = node
            elif isinstance(node, ast.Assign):
                self.names |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
            elif isinstance(node, ast.ImportFrom) and (
                node.level or (node.module or "").startswith("genmix")
            ):
                above = name.split(".")[: -node.level] if node.level else []
                home = ".".join([*above, *filter(None, [node.module])]).removeprefix("genmix.")
                self.imports |= {a.asname or a.name: home for a in node.names}


def members(modules, public, methods, module, name):
    """Fields, constructor and promised methods of a class: name -> node, with those of its bases
    that are not public."""
    found, node = {}, modules[module].names[name]
    for base in map(ast.unparse, node.bases):
        home = module if base in modules[module].names else modules[module].imports.get(base)
        if home in modules and base not in public.get(home, ()):
            found |= members(modules, public, methods, home, base)
    own = modules[module].members[name]
    found |= {
        k: n
        for k, n in own.items()
        if isinstance(n, ast.AnnAssign) or k == "__init__" or k in methods
    }
    return dict(
        sorted(
            found.items(),
            key=lambda kn: (not isinstance(kn[1], ast.AnnAssign), kn[0] != "__init__"),
        )
    )


def parameters(node):
    "A function's parameters, in order."
    a = node.args
    return [
        *a.posonlyargs,
        *a.args,
        *([a.vararg] if a.vararg else []),
        *a.kwonlyargs,
        *([a.kwarg] if a.kwarg else []),
    ]


class Unquoted(ast.NodeTransformer):
    "Annotations that are quoted, without the quotes."

    def visit_arg(self, node):
        if isinstance(node.annotation, ast.Constant) and isinstance(node.annotation.value, str):
            node.annotation = ast.parse(node.annotation.value, mode="eval").body
        return node

    def visit_FunctionDef(self, node):
        node.returns = self.visit_arg(ast.arg("", node.returns)).annotation
        return self.generic_visit(node)


def signature(node, method=False):
    "Parameters and return value, as they stand in the source, on one line."
    node = Unquoted().visit(ast.parse(ast.unparse(node)).body[0])
    args = node.args
    if method:  # without self
        args = ast.arguments(**{**dict(ast.iter_fields(args)), "args": args.args[1:]})
    return f"({ast.unparse(args)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def symbols():
    """Every promised name with its node: 'data.load', 'vae.VAE', 'vae.VAE.sample', ... in the order
    of `PUBLIC`."""
    public, methods = promised()
    paths = [p for p in (ROOT / "genmix").rglob("*.py") if p.stem[0] != "_"]
    names = [".".join(p.relative_to(ROOT / "genmix").with_suffix("").parts) for p in paths]
    modules = {name: Module(name) for name in names}
    for module, names in public.items():
        for name in names:
            home = module
            while name not in modules[home].names:  # handed on from the module that defines it
                home = modules[home].imports[name]
            node = modules[home].names[name]
            yield f"{module}.{name}", node
            if isinstance(node, ast.ClassDef):
                for member, n in members(modules, public, methods, home, name).items():
                    yield f"{module}.{name}.{member}", n


def lines():
    "The text of the interface."
    for name, node in symbols():
        if isinstance(node, ast.ClassDef):
            yield f"class {name}({', '.join(map(ast.unparse, node.bases))})"
        elif isinstance(node, ast.AnnAssign):
            yield f"{name}: {ast.unparse(node.annotation)}" + (
                f" = {ast.unparse(node.value)}" if node.value else ""
            )
        elif isinstance(node, FUNCTION):
            yield name + signature(node, method=name.count(".") > 1)
        else:
            yield f"{name}: a constant"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit 1 if the interface is not the stored one",
    )
    args = parser.parse_args()
    new = "\n".join(lines()) + "\n"
    old = STORED.read_text(encoding="utf-8") if STORED.exists() else ""
    changes = [
        c
        for c in difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        if c[:2] not in ("@@", "--", "++")
    ]
    print("\n".join(changes) or "the interface is the stored one")
    if not args.check:
        STORED.write_text(new, encoding="utf-8", newline="\n")
    return 1 if args.check and changes else 0


if __name__ == "__main__":
    sys.exit(main())
