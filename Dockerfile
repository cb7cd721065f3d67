# Nothing here needs BuildKit: ACR's remote build, which `azd up` uses, has none
# (https://github.com/Azure/acr/issues/721). No image is from Docker Hub, which limits
# the pulls of that build.
FROM mcr.microsoft.com/oss/go/microsoft/golang:1.26-bookworm AS build
WORKDIR /src
# Of Microsoft's build of Go: no report of what is built, and Go's own cryptography,
# for theirs needs cgo.
ENV MS_GOTOOLCHAIN_TELEMETRY_ENABLED=0 MS_GO_NOSYSTEMCRYPTO=1
# The modules first: this layer is built again only when they change.
COPY go.mod go.sum ./
RUN go mod download
COPY app app
# There is no .git here: infra/hooks/predeploy and the release workflow say what this is.
ARG VERSION
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.linked=$VERSION" -o /allregions ./app

FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="allregions" \
      org.opencontainers.image.description="Joins the webhooks of a geo-replicated Azure Container Registry into one notification" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /allregions /allregions
USER nonroot:nonroot
# Only the public port. APP_PORT is the sidecar's, on 127.0.0.1.
EXPOSE 8080
ENTRYPOINT ["/allregions"]
