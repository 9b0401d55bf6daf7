# PyBak's commands and deployments, as a user without rights of its own.
#
#     docker build -t pybak .
#     docker run --rm -v ~/Documents:/source:ro -v ~/Backups:/backups --user "$(id -u)" \
#         pybak python flows/backup.py /source --to /backups
#
# To encrypt: `-e PYBAK_PASSWORD`, which takes it from the shell that starts the container.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /app
# Dependencies change less often than the code: they are a layer of their own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt -e .
COPY pybak pybak
COPY blocks blocks
COPY tasks tasks
COPY flows flows
COPY deployments deployments
RUN /opt/venv/bin/python -m compileall -q pybak blocks tasks flows deployments

FROM ${BASE}
RUN useradd --uid 1000 --create-home pybak \
 && install -d -o pybak -g pybak -m 1777 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH \
    PYBAK_HOME=/data/pybak \
    PREFECT_HOME=/data/prefect \
    PYTHONUNBUFFERED=1
WORKDIR /app
VOLUME /data
USER pybak
CMD ["python", "flows/backup.py", "--help"]
