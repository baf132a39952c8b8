"""`deploytool init`: looks at a repository, proposes settings and writes them; overwrites nothing.

`survey` looks, `capistrano` reads what Capistrano was told, `proposal` decides and composes (both pure), `writing`
writes, `init` tells it all.
"""
