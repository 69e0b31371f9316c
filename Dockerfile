# Two images: `serve` answers over HTTP; `work` runs the whole pipeline, the servers and the worker. Neither has a compiler.
#   docker build --target serve --tag landuse-serve .
#   docker build --target work --tag landuse-work .
ARG PYTHON=python:3.13.16-slim-trixie

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/landuse
ENV PATH=/opt/landuse/bin:$PATH
COPY requirements/serve.txt requirements/
RUN pip install --no-deps --require-hashes --requirement requirements/serve.txt

FROM build AS build-serve
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY pipelines pipelines
RUN pip install --no-deps --no-build-isolation .

FROM build AS build-work
COPY requirements/team.txt requirements/
RUN pip install --no-deps --require-hashes --requirement requirements/team.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY pipelines pipelines
RUN pip install --no-deps --no-build-isolation .

FROM ${PYTHON} AS base
# Whoever owns the project folder runs the container, so any user may write to these two.
RUN useradd --uid 1000 --create-home landuse && mkdir /project && chmod 1777 /home/landuse /project
ENV PATH=/opt/landuse/bin:$PATH HOME=/home/landuse
WORKDIR /project
USER 1000

FROM base AS serve
COPY --from=build-serve /opt/landuse /opt/landuse
COPY params.yaml ./
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=4)"]
CMD ["landuse", "serve", "--host", "0.0.0.0"]

FROM base AS work
USER 0
# hadolint ignore=DL3008  # Debian keeps only the newest version of a package
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
USER 1000
COPY --from=build-work /opt/landuse /opt/landuse
# The code of the project folder comes first, where one is mounted, as the installed packages fit it.
ENV PYTHONPATH=/project/src:/project
CMD ["python", "-m", "pipelines", "up", "--wait"]
