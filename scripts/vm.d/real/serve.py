"""A WSGI service at the port that is the argument, and nginx before it. SIGQUIT ends it, as the image says, and nginx too."""

import os
import signal
import subprocess
import sys
from wsgiref.simple_server import make_server

NGINX = ["/usr/sbin/nginx", "-e", "stderr", "-c", "/srv/web/nginx.conf"]


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Made-By", "python")])
    return [f"{os.environ['GREETING']}, {environ['PATH_INFO']} of {os.getcwd()} for {os.getuid()}\n".encode()]


def stop(number, frame):
    subprocess.run(NGINX + ["-s", "stop"], check=True)
    print("stopped by", signal.Signals(number).name, flush=True)
    sys.exit(7)


signal.signal(signal.SIGQUIT, stop)
server = make_server("127.0.0.1", int(sys.argv[1]), application)
# A daemon: when it returns, it listens.
subprocess.run(NGINX, check=True)
print("ready", flush=True)
server.serve_forever()
