"""The playground: the real sshd, S3 server, Consul cluster and stretcher on one machine's loopback.

    with Playground(directory) as playground: …      for tests; dies with the process that started it
    python -m deploytool.playground up                 for people; stays until `down`

The build server is an sshd. Each app server, `app1` to `app3`, is a set of namespaces (mount, pid, uts) with its own
Consul agent and one `consul watch` running stretcher per role: killing its first process is a power cut, and the
same `deploy_to` is another directory on each host.

    <directory>/
      playground.json     ports, keys, applications: all that another process needs to find its way
      processes/          pid and start time of what was started
      build/              `build.root` of the build server
      repository/         a git repository of the sample app
      hosts/<host>/       a host's own directory as seen from outside
      host/               the same as seen on each host
      ssh_config, ssh/    how to log in to the build server
      log/                logs of sshd, weed and the Consul server; a host's are in hosts/<host>/log/
"""
