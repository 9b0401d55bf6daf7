# One image for PyBak's commands, a Prefect worker that runs them, and a Prefect server.
#
#     docker build -t pybak .
#     docker run --rm --read-only --cap-drop ALL --user "$(id -u)" --tmpfs /tmp \
#         -v ~/Documents:/sources/Documents:ro -v ~/Backups:/backups \
#         pybak python flows/backup.py /sources/Documents --to /backups
#
# Only /data (state) and /tmp need to be writable. docs/containers.md tells the rest.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /app
# Dependencies change less often than the code: they are a layer of their own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
# Nothing is installed in a container that runs, so pip goes. So do the packages' own tests, and
# descriptions of all of Google's services: the storage's client has no use for them.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/python3 -m pip install --no-cache-dir -c constraints.txt -e . \
 && /opt/venv/bin/python3 -m pip uninstall -y pip setuptools \
 && rm -rf /opt/venv/lib/python3*/site-packages/googleapiclient/discovery_cache/documents \
 && find /opt/venv -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
COPY pybak pybak
COPY blocks blocks
COPY tasks tasks
COPY flows flows
COPY deployments deployments
# Nobody can write there later; and the code doesn't change under its compiled form.
RUN /opt/venv/bin/python3 -m compileall -q --invalidation-mode unchecked-hash \
    pybak blocks tasks flows deployments

FROM ${BASE}
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PyBak" \
      org.opencontainers.image.description="Parallel backups into ordinary archives, run by Prefect" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Writable for everyone, like /tmp, so that `--user` may name whoever owns the backups.
RUN groupadd --gid 10001 pybak \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home \
    --shell /usr/sbin/nologin pybak \
 && install -d -o 10001 -g 10001 -m 1777 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/data \
    PYBAK_HOME=/data/pybak \
    PREFECT_HOME=/data/prefect \
    PREFECT_UI_STATIC_DIRECTORY=/data/prefect-ui \
    PREFECT_SERVER_ANALYTICS_ENABLED=0 \
    DO_NOT_TRACK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
VOLUME /data
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s --retries=3 \
    CMD ["python3", "-m", "deployments.health"]
CMD ["python3", "flows/backup.py", "--help"]
