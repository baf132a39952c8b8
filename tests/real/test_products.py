"""Products that were not made for this tool: what Rails', Django's and npm's own generators make, with a page, a schema
change and an asset added. `deploytool init` writes their settings, a person edits some values, and they are deployed to
the playground. Restarts are the real ones of puma, gunicorn and node; `shared/service` stands where a host has systemd.
"""

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import yaml

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support import product_parts
from tests.support.fab import Result
from tests.support.project import Project, part
from tests.support.releases import text_of
from tests.support.schemas import checked_provenance, checked_sbom

HOSTS = ("app1", "app2", "app3")
WAIT = {"fetch_seconds": 60, "activate_seconds": 150, "hook_seconds": 60, "stable_seconds": 0}


def generate(directory: Path, *command: str, env: Mapping[str, str] | None = None) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BUNDLE_", "GEM_", "RUBY"))}
    environment = {**kept, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"


class Product:
    """A product's repository, in which its settings are as well."""

    def __init__(self, playground: Playground, directory: Path, name: str, service: str) -> None:
        application = Application(name, (PlaygroundRole("web", HOSTS),))
        playground.add_application(application)
        self.playground = playground
        self.project = Project(playground, directory, application)
        self.repository = self.project.repository
        del self.project.settings["linked_files"]
        self.project.settings["wait"] = WAIT
        for host in HOSTS:
            self.put_on_host(host, "service", service)
            self.project.file(host, "shared/service").chmod(0o755)

    def init(self, recipe: str, directory: str, pid_file: str, **build: object) -> None:
        """`deploytool init`, which finds the recipe; then edit values: the restart, its proof, and those of `build`.

        `directory` is where it is to write the settings; what the playground knows comes as an environment of its own.
        """
        here = self.project.directory = self.repository.directory
        init = [str(Path(sys.executable).parent / "deploytool"), "init"]
        done = subprocess.run(init, cwd=here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert re.search(rf"^build.recipe +{recipe} ", done.stdout, re.MULTILINE), done.stdout
        deploy_yml = here / directory / "deploy.yml"
        written = yaml.safe_load(deploy_yml.read_text())
        written["build"].update(build)
        written["roles"]["web"] = {"restart": '"{{ shared_path }}/service"', "verify": {"pid_file": pid_file}}
        deploy_yml.write_text(yaml.safe_dump(written))
        (here / directory / "playground.yml").write_text(yaml.safe_dump(self.project.settings))
        self.repository.commit({}, "deploytool init")

    def put_on_host(self, host: str, path: str, content: str) -> None:
        place = self.project.file(host, f"shared/{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)

    def put_on_build_server(self, path: str, content: str) -> None:
        place = self.playground.build_root / self.project.application.name / "shared/playground" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)

    def answers(self, path: str = "/") -> set[str]:
        """What the hosts' servers say, each on its own port."""
        found = set()
        for host in HOSTS:
            port = self.playground.app_port(host, "web", self.project.application.name)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                found.add(answer.read().decode())
        return found

    def deploy(self) -> Result:
        """All hosts have proved the release, and `current` points to it."""
        result = self.project.deploy()
        assert set(self.project.served().values()) == {result.json["release"]}
        return result

    def components(self, release: str) -> set[str]:
        """What the release's SBOM names, once all that is published beside the archive is valid, and holds."""
        below = f"releases/{release}"
        bill = checked_sbom(text_of(self.project, f"{below}/sbom.cdx.json"))
        statement = checked_provenance(text_of(self.project, f"{below}/provenance.json"))
        assert statement["subject"][0]["name"].startswith(below)
        result = self.project.fab("playground", "releases", "--verify", "--release", release)
        assert result.code == 0, result.out
        return {each["purl"] for each in bill["components"]}

    def roll_back(self, release: str) -> None:
        result = self.project.fab("playground", "rollback", "--json")
        assert result.code == 0, f"{result.out}\n{result.err}"
        assert result.json["release"] == release
        assert set(self.project.served().values()) == {release}


# Rails

RAILS_SERVICE = """\
#!/bin/sh
set -eu
cd "$(dirname "$0")/../current"
. ../../shared/.env
if kill -USR1 "$(cat tmp/pids/server.pid 2>/dev/null)" 2>/dev/null; then exit; fi
export RAILS_ENV=production RAILS_SERVE_STATIC_FILES=yes WEB_CONCURRENCY=1 BUNDLE_GEMFILE="$PWD/Gemfile"
setsid bundle exec puma -C config/puma.rb -b "tcp://127.0.0.1:$PORT" </dev/null >>log/puma.log 2>&1 &
"""

RAILS_FILES = {
    "config/routes.rb": 'Rails.application.routes.draw { root "notes#index" }\n',
    "app/models/note.rb": "class Note < ApplicationRecord\nend\n",
    "app/views/notes/index.html.erb": "<p><%= @greeting %>: <%= Note.count %> notes</p>\n",
    "app/assets/stylesheets/notes.css": "p { color: teal }\n",
    "db/migrate/20260101000000_create_notes.rb": (
        "class CreateNotes < ActiveRecord::Migration[6.1]\n"
        "  def change\n    create_table(:notes) { |t| t.string :text }\n  end\nend\n"
    ),
}


def rails_controller(greeting: str) -> dict[str, str]:
    body = f'  def index\n    @greeting = "{greeting}"\n  end\n'
    return {"app/controllers/notes_controller.rb": f"class NotesController < ApplicationController\n{body}end\n"}


def test_rails_application(playground: Playground, tmp_path: Path) -> None:
    programs = part(product_parts.ruby_programs)
    for program in programs.iterdir():
        (playground.directory / "bin" / program.name).symlink_to(program)
    product = Product(playground, tmp_path, "board-rails", RAILS_SERVICE)
    here = product.repository.directory
    ruby = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    generate(here, "rails", "new", ".", "--name=board", "--minimal", "--skip-bundle", "--force", "--quiet", env=ruby)
    gemfile = here / "Gemfile"
    gemfile.write_text(re.sub("(?m)^gem 'sass-rails'.*\n", "", gemfile.read_text()))
    generate(here, "bundle", "lock", "--local", env=ruby)
    product.repository.commit({**RAILS_FILES, **rails_controller("first")})
    # Debian's gems, not ones of the release's own.
    gems = ["bundle config set --local path.system true", "bundle install --local"]
    inputs = ["Gemfile", "Gemfile.lock"]
    product.init("rails", "config/deploy", "tmp/pids/server.pid", dependencies=gems, dependencies_inputs=inputs)
    # What is not in the repository, or is not meant for production there, is where the recipe looks for it.
    master_key = (here / "config/master.key").read_text()
    database = f"production: {{adapter: sqlite3, timeout: 5000, database: {tmp_path}/board.sqlite3}}\n"
    for name, content in (("config/master.key", master_key), ("config/database.yml", database)):
        product.put_on_build_server(name, content)
        for host in HOSTS:
            product.put_on_host(host, name, content)

    first = product.deploy().json["release"]
    pages = product.answers()
    assert all("<p>first: 0 notes</p>" in page for page in pages)
    (stylesheet,) = {name for page in pages for name in re.findall(r"/assets/application-[0-9a-f]{64}\.css", page)}
    assert all("teal" in css for css in product.answers(stylesheet))
    release = product.project.file("app1", f"releases/{first}")
    assert not (release / "test").exists()
    assert (release / "public/uploads").is_symlink()
    locked = re.findall(r"^    (\S+) \(([0-9.]+)\)$", (here / "Gemfile.lock").read_text(), re.MULTILINE)
    assert product.components(first) == {f"pkg:gem/{name}@{version}" for name, version in locked}
    assert {"puma", "rails"} <= {name for name, _ in locked}

    product.repository.commit(rails_controller("second"))
    second = product.deploy()
    assert "dependencies: cached" in second.err
    assert "assets: cached" in second.err
    assert all("<p>second: 0 notes</p>" in page and stylesheet in page for page in product.answers())
    product.roll_back(first)
    assert all("<p>first: 0 notes</p>" in page for page in product.answers())


# Django

DJANGO_SERVICE = """\
#!/bin/sh
set -eu
cd "$(dirname "$0")/../current"
. ../../shared/.env
if old=$(cat tmp/pids/gunicorn.pid 2>/dev/null) && kill -TERM "$old" 2>/dev/null; then
  while kill -0 "$old" 2>/dev/null; do sleep 0.1; done
fi
export DATABASE
setsid venv/bin/gunicorn board.wsgi --chdir "$PWD" --bind "127.0.0.1:$PORT" --pid "$PWD/tmp/pids/gunicorn.pid" \\
  </dev/null >>log/gunicorn.log 2>&1 &
"""

#: Its master stays, and forks workers with the virtual environment that it was started from.
DJANGO_RELOAD = """\
#!/bin/sh
kill -HUP "$(cat "$(dirname "$0")/../current/tmp/pids/gunicorn.pid")"
"""

DJANGO_SETTINGS = """
import os

DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS.append("notes")
STATIC_ROOT = BASE_DIR / "static"
DATABASES["default"]["NAME"] = os.environ["DATABASE"]
"""

DJANGO_FILES = {
    "requirements.txt": "\n".join(product_parts.WHEELS) + "\n",
    "notes/models.py": "from django.db import models\n\n\nclass Note(models.Model):\n    text = models.TextField()\n",
    "board/urls.py": "from django.urls import path\nfrom notes import views\n\nurlpatterns = [path('', views.index)]\n",
}


def django_view(greeting: str) -> dict[str, str]:
    return {
        "notes/views.py": (
            "from django.http import HttpResponse\n\nfrom notes.models import Note\n\n\n"
            f'def index(request):\n    return HttpResponse(f"{greeting}: {{Note.objects.count()}} notes")\n'
        )
    }


def test_django_application(playground: Playground, tmp_path: Path) -> None:
    installed, wheels = part(product_parts.django), part(product_parts.wheels)
    product = Product(playground, tmp_path, "board-django", DJANGO_SERVICE)
    database = str(playground.directory / "board-django.sqlite3")
    # From what was downloaded before, and not from PyPI.
    product.project.settings["build"]["env"] = {
        "DATABASE": database,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    here = product.repository.directory
    python = {"PYTHONPATH": str(installed), "DATABASE": database}
    generate(here, sys.executable, "-m", "django", "startproject", "board", ".", env=python)
    generate(here, sys.executable, "manage.py", "startapp", "notes", env=python)
    with (here / "board/settings.py").open("a") as settings:
        settings.write(DJANGO_SETTINGS)
    product.repository.commit({**DJANGO_FILES, **django_view("first")})
    generate(here, sys.executable, "manage.py", "makemigrations", "notes", env=python)
    product.init("django", "config", "tmp/pids/gunicorn.pid")

    first = product.deploy().json["release"]
    assert product.answers() == {"first: 0 notes"}
    release = product.project.file("app1", f"releases/{first}")
    assert (release / "static/admin/css/base.css").is_file()
    assert product.components(first) == {f"pkg:pypi/{each.lower().replace('==', '@')}" for each in product_parts.WHEELS}

    product.repository.commit(django_view("second"))
    second = product.deploy()
    assert "dependencies: cached" in second.err
    assert "assets: cached" in second.err
    assert product.answers() == {"second: 0 notes"}
    product.roll_back(first)
    assert product.answers() == {"first: 0 notes"}


def test_gunicorn_that_is_only_reloaded_runs_the_old_releases_packages_and_is_not_verified(
    playground: Playground, tmp_path: Path
) -> None:
    installed, wheels = part(product_parts.django), part(product_parts.wheels)
    product = Product(playground, tmp_path, "board-hup", DJANGO_SERVICE)
    here = product.repository.directory
    environment = {"DATABASE": ":memory:", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    product.project.settings["build"]["env"] = environment
    python = {"PYTHONPATH": str(installed), "DATABASE": ":memory:"}
    generate(here, sys.executable, "-m", "django", "startproject", "board", ".", env=python)
    product.repository.commit({"requirements.txt": DJANGO_FILES["requirements.txt"]})
    product.init("django", "config", "tmp/pids/gunicorn.pid", assets=[], migrate=[])
    first = product.deploy().json["release"]
    for host in HOSTS:
        product.put_on_host(host, "service", DJANGO_RELOAD)
    # Only what must not be proven is waited for shortly.
    product.project.settings["wait"] = {**WAIT, "hook_seconds": 10}
    product.repository.commit({"VERSION": "2", "config/playground.yml": yaml.safe_dump(product.project.settings)})
    result = product.project.fab("playground", "deploy", "--json")
    assert result.code == 8, result.err
    reasons = {each["reason"] for each in result.json["hosts"]}
    assert all(f"releases/{first}/venv/bin/" in reason and "not of this release" in reason for reason in reasons)


# Express

NODE_SERVICE = """\
#!/bin/sh
set -eu
cd -P "$(dirname "$0")/../current"
. ../../shared/.env
if pid=$(cat tmp/pids/server.pid 2>/dev/null) && kill "$pid" 2>/dev/null; then
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
PORT=$PORT setsid node server.js </dev/null >>log/server.log 2>&1 &
echo $! >tmp/pids/server.pid
# node listens a moment after it has started, and its process alone does not prove that.
until (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do sleep 0.05; done
"""

NODE_FILES = {
    ".gitignore": "node_modules\npublic/main.js\n",
    "server.js": (
        'const express = require("express");\n'
        'express().use(express.static("public")).listen(process.env.PORT, "127.0.0.1");\n'
    ),
    "public/index.html": "<script src=main.js></script>\n",
    "client/main.js": 'import { greeting } from "./greeting.js";\ndocument.body.append(greeting);\n',
}


def test_express_application_with_a_bundler(playground: Playground, tmp_path: Path) -> None:
    generated = part(product_parts.node_application)
    product = Product(playground, tmp_path, "board-node", NODE_SERVICE.replace("/bin/sh", "/bin/bash"))
    # From what was downloaded before, and not from the npm registry.
    product.project.settings["build"]["env"] = {
        "npm_config_cache": str(generated / "cache"),
        "npm_config_offline": "true",
    }
    here = product.repository.directory
    files = {name: (generated / name).read_text() for name in ("package.json", "package-lock.json")}
    product.repository.commit({**files, **NODE_FILES, "client/greeting.js": 'export const greeting = "first";\n'})
    build = "esbuild client/main.js --bundle --minify --outfile=public/main.js"
    generate(here, "npm", "pkg", "set", f"scripts.build={build}")
    product.init("node", "config", "tmp/pids/server.pid")

    first = product.deploy().json["release"]
    assert product.answers() == {"<script src=main.js></script>\n"}
    assert all('"first"' in bundle for bundle in product.answers("/main.js"))
    modules = product.project.file("app1", f"releases/{first}/node_modules")
    assert (modules / "express").is_dir()
    assert not (modules / "esbuild").exists()
    assert any(each.startswith("pkg:npm/express@") for each in product.components(first))

    product.repository.commit({"client/greeting.js": 'export const greeting = "second";\n'})
    second = product.deploy()
    assert "dependencies: cached" in second.err
    assert all('"second"' in bundle for bundle in product.answers("/main.js"))
    product.roll_back(first)
    assert all('"first"' in bundle for bundle in product.answers("/main.js"))
