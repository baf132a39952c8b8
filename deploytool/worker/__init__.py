"""The worker: the part of deploytool that runs on the build server, shipped there as one file.

It reads JSON requests on stdin and answers in JSON lines. It speaks to the store and to Consul, runs the steps of a
build, and holds the locks, so that the operator's machine needs SSH and nothing else. It needs Python 3.8 or newer and
imports nothing of deploytool but `text/`; boto3 only when the store is S3. It decides nothing about a deployment: the
story is told by `deploytool.rollout.deploy` on the operator's side.
"""
