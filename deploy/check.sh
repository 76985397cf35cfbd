#!/usr/bin/env bash
# What can be checked of the deployment without a container engine and without a cluster: `make deploy-check`.
# Tools are looked for on the path; one that is not there is named and its part skipped, and any failure fails the whole.
set -euo pipefail
cd "$(dirname "$0")/.."

KUBERNETES_VERSIONS="${KUBERNETES_VERSIONS:-1.33 1.35 1.37}"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

has() {
    command -v "$1" >/dev/null || { echo "skipped: $2, since $1 is not on the path"; return 1; }
}

if has hadolint "the Dockerfile's style"; then
    hadolint Dockerfile
    echo "Dockerfile: no finding"
fi

if has docker-compose "the compose file"; then
    docker-compose --profile load config --quiet
    echo "docker-compose.yml: valid"
fi

if has kubectl "the manifests" && has kubernetes-validate "the manifests"; then
    for overlay in cpu gpu; do
        kubectl kustomize "deploy/kubernetes/overlays/$overlay" >"$folder/$overlay.yaml"
        for version in $KUBERNETES_VERSIONS; do
            kubernetes-validate --strict -k "$version" --quiet "$folder/$overlay.yaml"
        done
        echo "overlay $overlay: valid in Kubernetes $KUBERNETES_VERSIONS"
    done
    cp -r deploy/kubernetes "$folder/traced"
    sed -i 's#- ../../components/hpa#&\n  - ../../components/tracing#' "$folder/traced/overlays/cpu/kustomization.yaml"
    kubectl kustomize "$folder/traced/overlays/cpu" >"$folder/traced.yaml"
    grep --quiet '^  PHISERVE_TRACING_ENDPOINT: http' "$folder/traced.yaml"
    for version in $KUBERNETES_VERSIONS; do
        kubernetes-validate --strict -k "$version" --quiet "$folder/traced.yaml"
    done
    echo "component tracing: valid in Kubernetes $KUBERNETES_VERSIONS"
    # Kinds that a cluster does not have by itself have no schema there: that they can be put in place is what can be
    # seen of KEDA's and the Gateway API's, and of KServe's runtime that its containers are those of a valid pod.
    cp -r deploy/kubernetes "$folder/kubernetes"
    sed -i 's#- ../../components/hpa#&\n  - ../../components/gateway#' "$folder/kubernetes/overlays/cpu/kustomization.yaml"
    kubectl kustomize "$folder/kubernetes/overlays/cpu" | grep --count --line-regexp 'kind: \(HTTP\|GRPC\)Route' | grep --quiet 2
    echo "component gateway: builds"
    sed -i 's#components/hpa#components/keda#' "$folder/kubernetes/overlays/cpu/kustomization.yaml"
    kubectl kustomize "$folder/kubernetes/overlays/cpu" | grep --quiet '^kind: ScaledObject$'
    echo "component keda: builds"
    kubectl kustomize deploy/kubernetes/kserve >"$folder/kserve.yaml"
    "${DEPLOY_PYTHON:-python3}" deploy/kubernetes/kserve/as_pod.py "$folder/kserve.yaml" >"$folder/kserve-pod.yaml"
    for version in $KUBERNETES_VERSIONS; do
        kubernetes-validate --strict -k "$version" --quiet "$folder/kserve-pod.yaml"
    done
    echo "kserve: builds, and its containers are valid in Kubernetes $KUBERNETES_VERSIONS"
fi

if has envoy "Envoy's configuration"; then
    envoy --mode validate --config-path deploy/envoy/envoy.yaml --log-level warning
fi

if has promtool "the rules"; then
    promtool check config deploy/prometheus/prometheus.yml
    (cd deploy/prometheus && promtool test rules rules.test.yml)
fi

if has prometheus "the queries on a real server"; then
    "${DEPLOY_PYTHON:-python3}" deploy/check_queries.py
fi
