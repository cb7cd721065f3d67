# Nothing here needs BuildKit: ACR's remote build, which `azd up` uses, has none
# (https://github.com/Azure/acr/issues/721).
FROM golang:1.26-bookworm AS build
WORKDIR /src
# The modules first: this layer is built again only when they change.
COPY go.mod go.sum ./
RUN go mod download
COPY app app
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /allregions ./app

FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION=dev
ARG REVISION=unknown
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
