# The command `hydratecache`, in an image that has little else. Takes BuildKit, the default since Docker 23:
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
# Every tree that is built on a machine shares the caches, and Cargo goes by files' times, which COPY keeps: without
# `touch` an image could have another tree's command. Caches are no part of the image, so the command goes to where
# they are not, without debug information, which is three quarters of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + \
    && cargo build --locked --release --package hydratecache-cli --features "$FEATURES" \
    && strip --strip-debug -o /usr/local/bin/hydratecache target/release/hydratecache

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
