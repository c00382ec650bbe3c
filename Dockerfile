# The command `hydratecache`, in an image that has little else:
#   docker build --tag hydratecache .
#   docker build --tag hydratecache --build-arg FEATURES=kafka .         (kafka-tls: with TLS and SASL to Kafka)
#   docker run --rm --network host --env HYDRATECACHE_TRANSPORT=redis://localhost:6379 hydratecache doctor

# Any Rust from `rust-version` in Cargo.toml on will do.
ARG RUST=1.90
ARG DEBIAN=bookworm

FROM rust:${RUST}-slim-${DEBIAN} AS build
# For librdkafka, which is built along, and for the OpenSSL of `kafka-tls`. What they are is Debian's to keep up to date.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential perl zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
ARG FEATURES=""
# Caches are no part of the image, so the command is copied to where they are not.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --locked --release --package hydratecache-cli --features "$FEATURES" \
    && cp target/release/hydratecache /usr/local/bin/hydratecache

FROM debian:${DEBIAN}-slim
# Certificates for TLS to a broker; zlib for librdkafka.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin hydratecache
COPY --from=build /usr/local/bin/hydratecache /usr/local/bin/hydratecache
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/hydratecache/
# A number, so that Kubernetes can tell that it is not root.
USER 10001
# What it leaves behind, it leaves in folders that are mounted, or with the container.
WORKDIR /tmp
ENTRYPOINT ["hydratecache"]
CMD ["--help"]
