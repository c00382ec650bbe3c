//! What triggers cost pgbench: without any, with one that calls `pg_notify` by hand, and attached.

use hydratecache_postgres::Attachment;
use hydratecache_testkit::broker::Broker;
use tokio_postgres::Client;

use crate::workload::Workload;
use crate::{Outcome, TABLES, attach};

/// How long each way runs in a round, in seconds.
const SECONDS: u64 = 5;

const BY_HAND: &str =
    "CREATE OR REPLACE FUNCTION public.by_hand() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify(TG_TABLE_NAME, row_to_json(NEW)::text); RETURN NULL; END $$";

/// How the tables publish.
#[derive(Clone, Copy)]
enum Way {
    NotAtAll,
    ByHand,
    Attached,
}

/// Each way is once the first, the second and the third, so that what slows down with time, the
/// tables or the machine, slows all of them.
const ROUNDS: [[Way; 3]; 3] = [
    [Way::NotAtAll, Way::ByHand, Way::Attached],
    [Way::ByHand, Way::Attached, Way::NotAtAll],
    [Way::Attached, Way::NotAtAll, Way::ByHand],
];

pub(crate) async fn print(workload: &Workload, broker: &Broker, admin: &Client) -> Outcome<()> {
    admin.batch_execute(BY_HAND).await?;
    let mut per_second = [0.0; 3];
    for way in ROUNDS.into_iter().flatten() {
        way.prepare(admin).await?;
        let measured = workload.start_for(broker, SECONDS)?.measured().await?;
        per_second[way as usize] += measured.per_second / 3.0;
    }
    let [plain, by_hand, attached] = per_second;
    let cost = |with: f64| 100.0 * (1.0 - with / plain);
    println!(
        "pgbench_cost: tps={plain:.0} tps_by_hand={by_hand:.0} tps_attached={attached:.0} \
         cost_by_hand={:.1} cost_attached={:.1}",
        cost(by_hand),
        cost(attached),
    );
    Ok(())
}

impl Way {
    async fn prepare(self, admin: &Client) -> Outcome<()> {
        for table in TABLES {
            Attachment::detach(admin, &format!("public.{table}")).await?;
            let clean = format!("DROP TRIGGER IF EXISTS by_hand ON public.{table}");
            admin.batch_execute(&clean).await?;
            match self {
                Self::NotAtAll => {}
                Self::Attached => attach(admin, table).await?,
                Self::ByHand => {
                    let make = format!(
                        "CREATE TRIGGER by_hand AFTER INSERT OR UPDATE ON public.{table} \
                         FOR EACH ROW EXECUTE FUNCTION public.by_hand()"
                    );
                    admin.batch_execute(&make).await?;
                }
            }
            admin.batch_execute(&format!("VACUUM public.{table}")).await?;
        }
        Ok(())
    }
}
