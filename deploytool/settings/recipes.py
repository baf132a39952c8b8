"""Recipes: the defaults that a kind of application brings to the settings. Pure values: others merge and run them.

A command is shell text (bash, possibly of several lines) that runs in the work tree, each in a shell of its own under
`set -euo pipefail`, with standard input closed. What a recipe gives, the settings may replace, key by key.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class VersionManager:
    """A program that keeps several versions of another one, of which a file in the application names one."""

    #: also what the directory of its own is called, with a dot, in the home directory; `<NAME>_ROOT` tells another one,
    #: `<NAME>_VERSION` the version that its shims run
    name: str
    file: str
    #: the program, as `Recipe.tools` calls it
    program: str


RBENV = VersionManager("rbenv", ".ruby-version", "ruby")
NODENV = VersionManager("nodenv", ".node-version", "node")
PYENV = VersionManager("pyenv", ".python-version", "python3")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Defaults for `build.*` and the linked paths. Paths are relative to the work tree's root."""

    name: str
    dependencies: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    migrate: tuple[str, ...] = ()
    #: see `Build.migrate_pending`; for the recipe's own `migrate` only
    migrate_pending: tuple[str, ...] = ()
    #: git pathspecs of the files that decide what those make, counted from the application's directory; none: nobody
    #: can tell, and they always run
    dependencies_inputs: tuple[str, ...] = ()
    assets_inputs: tuple[str, ...] = ()
    #: an extended regular expression for lines of `dependencies_inputs` that have something installed from the tree
    #: itself; empty: there are no such lines
    local_references: str = ""
    exclude: tuple[str, ...] = ()
    linked_dirs: tuple[str, ...] = ()
    linked_files: tuple[str, ...] = ()
    #: of `build`, on the build server
    build_linked_files: tuple[str, ...] = ()
    #: programs whose `--version` decides the bytes of the archive, see `programs`; each must answer that
    tools: tuple[str, ...] = ()
    #: version managers that are asked for what the application's version files name
    version_managers: tuple[VersionManager, ...] = ()
    #: git pathspecs, relative to the application's directory, of the files that change the schema, a file a change;
    #: empty if nobody can tell
    migrations: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: directories that its build makes, and why no host may link something over them, as the rest of a sentence
    builds: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: for `init`, from the texts of those `sign_files` that there are: why an application is of this kind; None if it
    #: is not
    sign: Callable[[Mapping[str, str]], str | None] = lambda texts: None
    sign_files: tuple[str, ...] = ()
    #: what `init` proposes: how its server is restarted, with {} for the application's name, and how it is proven
    restart: str | None = "sudo systemctl restart {}"
    verify: str = '{url: "http://127.0.0.1:8080/"}'

    def programs(self, env: Mapping[str, str]) -> tuple[str, ...]:
        """The tools as they are called under that environment: `PYTHON` names the interpreter, as in the commands."""
        return tuple(env.get("PYTHON", tool) if tool == "python3" else tool for tool in self.tools)


# The virtual environment is built in the work tree and used in releases/<release>/venv on other machines. Its `python`
# is a symbolic link to the build server's interpreter; templates/host/virtualenv.sh leads it to the host's own.
_DJANGO_INSTALL = """\
if [ ! -f requirements.txt ]; then
  echo "requirements.txt is missing in the application's root: the recipe django installs from it" >&2
  exit 1
fi
"${PYTHON:-python3}" -m venv --clear venv
venv/bin/python -m pip install --no-compile --requirement requirements.txt"""

# `migrate --check` ends with 1 for a database that can't be asked, too.
_DJANGO_PENDING = r"""
plan=$(venv/bin/python manage.py showmigrations --plan) || exit 2
awk '/^\[ \]/ { print $3; found = 1 } END { exit !found }' <<<"$plan"
"""

# Rails ends with 1 whatever is wrong, so that the rows tell: version and name. `db:migrate:status` would end with 1 for
# a database that is still empty.
_RAILS_PENDING = r"""
if rows=$(bin/rails db:abort_if_pending_migrations); then exit 1; fi
awk '/^ +[0-9]+ / { print $1, $2; found = 1 } END { exit found ? 0 : 2 }' <<<"$rows"
"""


def command_name(command: str) -> str:
    """A command as people see it: one line as it is, a script by its name or its first line that does something."""
    command = command.strip()
    if name := _SCRIPTS.get(command):
        return name
    lines = [line.strip() for line in command.split("\n")]
    telling = [line for line in lines if line and not line.startswith("#") and not re.match(r"set [-+]", line)]
    return f"{telling[0]} …" if len(telling) > 1 else (telling or lines)[0]


#: what people see in place of a recipe's script
_SCRIPTS = {
    _DJANGO_INSTALL.strip(): "pip install --requirement requirements.txt",
    _DJANGO_PENDING.strip(): "manage.py showmigrations",
    _RAILS_PENDING.strip(): "rails db:abort_if_pending_migrations",
}


def _names_rails(texts: Mapping[str, str]) -> str | None:
    named = re.search(r"""^\s*gem[\s(]+["']rails["']""", texts.get("Gemfile", ""), re.MULTILINE)
    return "the Gemfile names rails" if named else None


def _names_django(texts: Mapping[str, str]) -> str | None:
    if re.search(r"django", texts.get("manage.py", ""), re.IGNORECASE):
        return "manage.py is Django's"
    patterns = {
        "requirements.txt": r"^\s*django\s*(?:$|[<>=~!;\[#@])",
        # In a list of requirements, or Poetry's key.
        "pyproject.toml": r"""["']django\s*["'<>=~!;\[]|^\s*django\s*=""",
    }
    for file, pattern in patterns.items():
        if re.search(pattern, texts.get(file, ""), re.IGNORECASE | re.MULTILINE):
            return f"{file} names Django"
    return None


#: why nothing may be linked over a directory
ASSETS = "the build compiles assets into it"
PACKAGES = "the build installs packages into it"

_NONE = Recipe(name="none")

_DJANGO = Recipe(
    name="django",
    builds={
        **dict.fromkeys(("static", "staticfiles"), "the build collects static files into it"),
        **dict.fromkeys(("venv", ".venv"), PACKAGES),
    },
    sign=_names_django,
    sign_files=("manage.py", "requirements.txt", "pyproject.toml"),
    # Not by a reload: gunicorn's master would fork workers with the old release's packages.
    restart="sudo systemctl restart {}",
    verify="{port: 8000, pid_file: tmp/pids/gunicorn.pid}",
    dependencies=(_DJANGO_INSTALL, "relocate_virtualenv venv"),
    assets=("venv/bin/python manage.py collectstatic --noinput",),
    migrate=("venv/bin/python manage.py migrate --noinput",),
    migrate_pending=(_DJANGO_PENDING.strip(),),
    dependencies_inputs=(":(glob)**/*.txt", ".python-version"),
    # collectstatic may read any file, by the settings; but not those that only answer requests.
    assets_inputs=(
        ".",
        *(f":(exclude,glob)**/{name}.py" for name in ("admin", "forms", "models", "tests", "test_*", "urls", "views")),
        *(f":(exclude,glob)**/{name}/**" for name in ("docs", "locale", "migrations", "templates", "tests")),
        ":(exclude,glob)**/*.md",
    ),
    local_references="|".join(
        (
            "^[[:space:]]*(-e|--editable|-f|--find-links|--no-index)",
            "^[[:space:]]*[.]",
            "(@|^)[[:space:]]*file:",
            "[.](whl|zip|tar[.]gz)",
            # Of files that are named, those called *.txt are among the inputs.
            "^[[:space:]]*(-r|--requirement|-c|--constraint)[[:space:]=]*[^[:space:]#]*"
            "([^t[:space:]]|[^x]t|[^t]xt|[^.]txt)[[:space:]]*(#.*)?$",
        )
    ),
    exclude=("log", "tmp"),
    linked_dirs=("log", "tmp/pids"),
    tools=("python3",),
    version_managers=(PYENV, NODENV),
    migrations=(":(glob)**/migrations/*.py", ":(glob,exclude)**/migrations/__init__.py"),
    env=MappingProxyType(
        {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "1",
            "PIP_NO_INPUT": "1",
            # collectstatic and migrate must not leave byte code with the build's paths and time stamps.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
    ),
)

_RAILS = Recipe(
    name="rails",
    sign=_names_rails,
    sign_files=("Gemfile",),
    restart="sudo systemctl reload-or-restart {}",
    verify="{port: 3000, pid_file: tmp/pids/server.pid}",
    # What bundler must know on the app servers as well, it writes into .bundle/config, which goes with the release.
    dependencies=(
        'bundle config set --local deployment "$BUNDLE_DEPLOYMENT"',
        'bundle config set --local path "$BUNDLE_PATH"',
        'bundle config set --local without "$BUNDLE_WITHOUT"',
        "bundle install",
    ),
    assets=("bin/rails assets:precompile",),
    migrate=("bin/rails db:migrate",),
    migrate_pending=(_RAILS_PENDING.strip(),),
    dependencies_inputs=(
        *("Gemfile", "Gemfile.lock", ":(glob)gemfiles/**", ":(glob)**/*.gemspec", ":(glob)vendor/cache/**"),
        *(".bundle/config", ".ruby-version", ".tool-versions"),
    ),
    # A bundler of CSS looks for class names in views and helpers; initializers and tasks shape the pipeline.
    assets_inputs=(
        *(f":(glob)**/{name}/**" for name in ("assets", "javascript", "javascripts", "stylesheets", "images", "fonts")),
        *(f"app/{name}" for name in ("views", "helpers", "components", "packs", "frontend")),
        *("config", "lib", "public", "vendor", "Rakefile", "bin", "Gemfile", "Gemfile.lock"),
        *(":(glob)*.js", ":(glob)*.cjs", ":(glob)*.mjs", ":(glob)*.ts", ":(glob)*.json", ":(glob).*rc", "yarn.lock"),
        *("pnpm-lock.yaml", "bun.lock", "bun.lockb", ".node-version", ".nvmrc", "Procfile.dev"),
    ),
    exclude=("log", "tmp", "spec", "test", "node_modules", "vendor/bundle/ruby/*/cache"),
    linked_dirs=("log", "tmp/pids", "tmp/sockets", "public/system", "public/uploads", "storage"),
    linked_files=("config/database.yml", "config/master.key"),
    build_linked_files=("config/database.yml", "config/master.key"),
    tools=("ruby", "bundle"),
    version_managers=(RBENV, NODENV),
    # Each of several databases has a directory of its own: db/animals_migrate, say.
    migrations=(":(glob)db/migrate/**/*.rb", ":(glob)db/*_migrate/**/*.rb"),
    env=MappingProxyType(
        {
            "RAILS_ENV": "production",
            "BUNDLE_DEPLOYMENT": "true",
            # Downloads and compiled extensions, in the home directory: a changed Gemfile.lock installs all of it anew.
            "BUNDLE_GLOBAL_GEM_CACHE": "true",
            "BUNDLE_PATH": "vendor/bundle",
            "BUNDLE_WITHOUT": "development:test",
        }
    ),
)

# npm would write into that file in place, and so into what is kept of the dependencies; without it npm looks itself.
_NODE_PRUNE = "rm -f node_modules/.package-lock.json && npm prune --omit=dev"

_NODE = Recipe(
    name="node",
    builds=dict.fromkeys(("dist", "build", "out", ".next", ".nuxt", ".output"), ASSETS),
    sign=lambda texts: "there is a package.json" if "package.json" in texts else None,
    sign_files=("package.json",),
    verify='{url: "http://127.0.0.1:3000/"}',
    dependencies=("npm ci",),
    assets=("npm run build --if-present", _NODE_PRUNE),
    # No assets_inputs: a bundler may read anything, and write the commit's SHA into what it makes.
    dependencies_inputs=(
        *(":(glob)**/package.json", ":(glob)**/package-lock.json", ":(glob)**/npm-shrinkwrap.json", ":(glob)**/.npmrc"),
        *(".node-version", ".nvmrc"),
    ),
    # Scripts of the application's own that run with the installation, and packages from the tree itself.
    local_references="|".join(
        (
            '"((pre|post)?(install|prepare)|prepublish)"[[:space:]]*:',
            '"(file|link):',
            '"resolved":[[:space:]]*"file:',
        )
    ),
    exclude=("log", "tmp", "node_modules/.cache"),
    linked_dirs=("log", "tmp/pids"),
    tools=("node", "npm"),
    version_managers=(NODENV,),
    # NODE_ENV=production would make `npm ci` leave out what the build needs; the prune after it takes that away.
    env=MappingProxyType({"CI": "true"}),
)

# Pages as they are, or made by a command of the user's in `build.assets`. A web server reads them from `current`:
# nothing is linked, and nothing restarted.
_STATIC = Recipe(
    name="static",
    builds=dict.fromkeys(("dist", "build", "out", "_site", "public"), "the build makes the pages in it"),
    sign=lambda texts: "there is an index.html, and nothing to run" if "index.html" in texts else None,
    sign_files=("index.html",),
    restart=None,
    verify='{url: "http://127.0.0.1/"}',
    exclude=("node_modules",),
    version_managers=(NODENV,),
)

#: by the name that stands in `build.recipe`; `init` takes the first that sees a sign, so more general ones come later:
#: many applications have a package.json
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (_NONE, _RAILS, _DJANGO, _NODE, _STATIC)}
)
