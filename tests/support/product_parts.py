"""What the products of test_products are made of, downloaded once into `.tools/products`: Rails as Debian packages it,
Django and gunicorn from PyPI, Express and esbuild from the npm registry.

Nothing on the system is changed. What a build needs at least then comes from here, so that a test run asks no registry.
"""

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from deploytool.playground.parts import TOOLS, find_or_install_program, installing, run, unpack_debian

#: Resolved, since scripts in it hold their own place.
PRODUCTS = TOOLS.resolve() / "products"
#: with all that a new application's Gemfile names, but for Sass, whose library is looked for in /usr/lib only
RUBY = ("ruby", "ruby-rails", "ruby-sqlite3", "puma", "ruby-sprockets-rails", "ruby-bundler", "ruby-minitest")
RUBY_FOR_DEVELOPMENT = ("ruby-byebug", "ruby-listen")
WHEELS = ("Django==5.2.19", "gunicorn==23.0.0")
NODENV = "@nodenv/nodenv@1.6.2"
NODE_PACKAGES = ("express@5.3.0",)
NODE_DEVELOPMENT_PACKAGES = ("esbuild@0.28.2",)


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """The directory of that name, made whole or not at all."""
    made = PRODUCTS / name
    if not made.is_dir():
        with installing():
            if not made.is_dir():
                new = made.with_name(f"{name}.new")
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir(parents=True)
                make(new)
                new.rename(made)
    return made


def ruby_programs() -> Path:
    """A directory with `ruby`, `bundle`, `rails` and `puma`, which know each other and Debian's gems."""

    def make(new: Path) -> None:
        def is_of_ruby(package: str) -> bool:
            return package.startswith(("ruby", "libruby", "rake", "bundler", "puma", "rails"))

        root = unpack_debian("ruby", [*RUBY, *RUBY_FOR_DEVELOPMENT], absent=is_of_ruby).resolve()
        interpreter = next(root.glob("usr/bin/ruby[0-9]*"))
        version = interpreter.name.removeprefix("ruby") + ".0"
        native = next(root.glob("usr/lib/*/libruby*")).parent
        libraries = [
            *(home / "vendor_ruby" for home in (root / "usr/lib/ruby", native / "ruby")),
            native / "ruby/vendor_ruby" / version,
            *(home / version for home in (root / "usr/lib/ruby", native / "ruby")),
        ]
        gems = [
            *(root / "usr/share/rubygems-integration" / name for name in ("all", version)),
            native / "rubygems-integration" / version,
            root / "usr/lib/ruby/gems" / version,
        ]
        # Where bundler would install gems, had it to; it wants to be able to.
        own = root / "var/lib/gems" / version
        own.mkdir(parents=True, exist_ok=True)
        script = [
            "#!/bin/sh",
            f"export GEM_HOME={shlex.quote(str(own))}",
            f"export LD_LIBRARY_PATH={shlex.quote(str(native))}",
            f"export RUBYLIB={shlex.quote(':'.join(map(str, libraries)))}",
            f"export GEM_PATH={shlex.quote(':'.join(map(str, gems)))}",
            f'exec {shlex.quote(str(interpreter))} "$@"',
        ]
        (new / "ruby").write_text("\n".join(script) + "\n")
        for name in ("bundle", "rails", "puma"):
            program = root / "usr/bin" / name
            (new / name).write_text(f'#!/bin/sh\nexec ruby {shlex.quote(str(program))} "$@"\n')
        for path in new.iterdir():
            path.chmod(0o755)

    return _once("ruby", make)


def version_manager(name: str) -> Path:
    """The program `rbenv`, from Debian, or `nodenv`, from the npm registry."""

    def make(new: Path) -> None:
        if name == "rbenv":
            root = unpack_debian(name, [name]).resolve()
            (new / name).symlink_to(root / "usr/lib/rbenv/libexec/rbenv")
        else:
            run(["npm", "install", "--prefix", str(new), NODENV], name, "downloading it with npm", cwd=new)
            (new / name).symlink_to("node_modules/@nodenv/nodenv/libexec/nodenv")

    return _once(name, make) / name


def wheels() -> Path:
    """A directory that pip finds WHEELS in, and all that they need."""

    def make(new: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--dest", str(new), *WHEELS], "Django", "downloading it with pip")

    return _once("-".join(["wheels", *WHEELS]), make)


def django() -> Path:
    """A directory for PYTHONPATH that Django can be imported from, for `django-admin`."""
    found = wheels()

    def make(new: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--no-index", f"--find-links={found}", f"--target={new}", WHEELS[0]], "Django", "installing it")

    return _once("-".join(["installed", WHEELS[0]]), make)


def node_application() -> Path:
    """A directory with `package.json` and `package-lock.json`, and `cache`, from which `npm ci` installs offline."""
    for program in ("node", "npm"):
        find_or_install_program(program, print)

    def make(new: Path) -> None:
        def npm(*arguments: str) -> None:
            run(["npm", *arguments, f"--cache={new / 'cache'}"], "Express", "downloading it with npm", cwd=new)

        (new / "package.json").write_text('{"name": "board", "version": "1.0.0", "private": true}\n')
        npm("install", *NODE_PACKAGES)
        npm("install", "--save-dev", *NODE_DEVELOPMENT_PACKAGES)
        # What `npm ci` asks for is not all that `npm install` asked for.
        shutil.rmtree(new / "node_modules")
        npm("ci")
        shutil.rmtree(new / "node_modules")

    return _once("-".join(["node", *NODE_PACKAGES, *NODE_DEVELOPMENT_PACKAGES]), make)
