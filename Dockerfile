# The API: `broker` and `app`, and what they need; no provider client, no scheduler, no simulator.
#
#   docker build -t sandbox-broker-api .
#
# A release pins the base image by its digest, as docker prints it for the tag:
#   docker buildx imagetools inspect python:3.13-slim --format '{{.Manifest.Digest}}'
#   docker build --build-arg PYTHON_DIGEST=sha256:... \
#     --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD) .
#
# Runs with a read-only root and without privileges: docker run --read-only --cap-drop ALL -p 8080:8080 --env-file ...
ARG PYTHON_IMAGE=python:3.13-slim
ARG PYTHON_DIGEST=

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/broker
COPY requirements/api.txt /tmp/requirements.txt
RUN python -m venv --without-pip /opt/venv
RUN python -m pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: -r /tmp/requirements.txt
COPY broker broker
COPY app app
# Readable whatever the umask of the machine that builds; compiled here, because a read-only root cannot be written to.
RUN chmod -R a+rX /srv/broker
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /srv/broker

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sandbox-broker-api" \
      org.opencontainers.image.description="Sandbox Broker: the API that hands sandboxes to workshop students" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# What runs needs no installer.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/broker /srv/broker
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /srv/broker
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('localhost', int(os.environ.get('API_PORT', 8080)), timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "app"]
