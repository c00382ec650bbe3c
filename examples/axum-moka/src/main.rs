//! `axum-moka serve ADDRESS` is the service. Without arguments, the tour starts two instances of it and
//! speaks to both. `DATABASE_URL` says where PostgreSQL is.

mod service;
mod tour;

use std::env;

use anyhow::{Context, bail};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let database = env::var("DATABASE_URL")
        .context("DATABASE_URL is not set: use postgres://user:password@localhost/database")?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => tour::run(&database).await,
        ["serve", address] => service::serve(&database, address).await,
        _ => bail!("usage: axum-moka [serve ADDRESS]"),
    }
}
