# Controller and movers in one image; `make image` packs the same without an engine.
FROM rust:1.95 AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package mover --package plugin --bins

FROM debian:trixie-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/mover /src/target/release/estiba-controller /usr/bin/
ENTRYPOINT ["/usr/bin/mover"]
