# syntax=docker/dockerfile:1

# The image holds one static program and the certificate authorities that webhooks need, and nothing else: no shell,
# no package manager. docs/kubernetes.md says how it was tried.

ARG GO_VERSION=1.26
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src

# The modules change less often than the code, so they have a layer of their own.
COPY go.mod go.sum ./
RUN go mod download

COPY . .
ARG TARGETOS TARGETARCH
# Without cgo the program is static. The commit is taken from .git.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags='-s -w' -o /out/usr/local/bin/esh3ar ./cmd/esh3ar \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt \
 && install -d -m 0700 -o 65532 -g 65532 /out/var/lib/esh3ar

FROM scratch
COPY --from=build /out/ /

# No name, but a number: orchestrators can tell that it is not root.
USER 65532:65532

# A volume that is mounted here must belong to 65532, or to a group of it.
VOLUME /var/lib/esh3ar
ENV ESH3AR_DATA=/var/lib/esh3ar \
    ESH3AR_LISTEN=0.0.0.0:8080

# 8080 clients and devices, 6222 between nodes that keep the journal, 4222 for nodes that do not; 8000 and 8001 of the balancer.
EXPOSE 8080 6222 4222 8000 8001

# Docker asks for SIGKILL 10 s after SIGTERM unless it is told otherwise; give it more than one and a half times
# --drain-timeout, and the --drain-delay.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/usr/local/bin/esh3ar", "health", "--live"]

ENTRYPOINT ["/usr/local/bin/esh3ar"]
CMD ["serve"]
