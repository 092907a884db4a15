# The server and the demo. See docs/deployment.md.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS dependencies
# gpu or cpu: which build of FAISS. PyTorch brings its own CUDA in both.
ARG EXTRAS=demo,gpu,quantize
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/fromage
ENV PATH=/opt/fromage/bin:$PATH
WORKDIR /src
COPY constraints.txt pyproject.toml ./
COPY clients/python/pyproject.toml clients/python/
# The packages without their code, for what they depend on: these gigabytes stay in the build
# cache until a dependency changes.
RUN touch README.md clients/python/README.md \
    && pip install -c constraints.txt ./clients/python ".[${EXTRAS}]" \
    && pip uninstall -y fromage-server fromage-client

FROM dependencies AS app
# Attention on a CPU is compiled here; the image itself has no compiler. Where the base image has no
# apt-get and no compiler of its own, the server goes without.
RUN if command -v apt-get; then \
      apt-get update -q \
      && apt-get install -qy --no-install-recommends g++ \
      && rm -rf /var/lib/apt/lists/*; \
    fi
COPY . .
RUN pip install --no-deps --prefix=/app ./clients/python . \
    && { ! command -v c++ \
         || PYTHONPATH=$(echo /app/lib/python*/site-packages) \
            python -c "from fromage_server.engine.compiled import build_all; build_all()"; }

FROM dependencies
COPY --from=app /app /opt/fromage
WORKDIR /data
RUN rm -rf /src \
    && useradd --uid 1000 --home-dir /cache --create-home --shell /usr/sbin/nologin fromage \
    && mkdir -p /data /images \
    && chown fromage:fromage /data
USER fromage
ENV FROMAGE_HOST=0.0.0.0 \
    FROMAGE_PORT=8000 \
    XDG_CACHE_HOME=/cache \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /cache
EXPOSE 8000
# Ready, not only alive; building a collection at the first start counts as starting.
HEALTHCHECK --interval=10s --timeout=5s --start-period=12h --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['FROMAGE_PORT']), timeout=4); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["fromage"]
CMD ["serve"]
