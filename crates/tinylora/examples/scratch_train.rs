//! scratch
use std::sync::atomic::AtomicBool;
use tinylora::train::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let recipe = tinylora::recipe::Recipe::load(args[1].as_ref(), &args[3..]).unwrap();
    let cpu = tinylora_compute::Cpu::from_env().unwrap();
    let interrupt = AtomicBool::new(false);
    let options = TrainOptions { out: args[2].clone().into(), resume: false, hub: tinylora::hub::HubOptions::from_env(), interrupt: &interrupt };
    let start = std::time::Instant::now();
    let r = train(&cpu, &recipe, &options, &mut |event| match event {
        Event::Rollout { .. } | Event::Loading(tinylora::base::Loading::Factors{..})| Event::Loading(tinylora::base::Loading::Weights{..}) | Event::Loading(tinylora::base::Loading::Hub(_)) => {}
        Event::Step { metrics, v } => println!("{:6.1} step {} rew {:.3} act {:.2} len {:.1} trunc {:.2} ent {:.3} gap {} gn {:.4} vn {:.4} | roll {} tok {:.2}s train {} tok {:.2}s rss {} v {:?}", start.elapsed().as_secs_f64(), metrics.step, metrics.reward_mean, metrics.active_group_fraction, metrics.completion_tokens_mean, metrics.truncated_fraction, metrics.entropy, metrics.logprob_gap_max, metrics.grad_norm, metrics.v_norm, metrics.rollout_tokens, metrics.rollout_seconds, metrics.train_tokens, metrics.train_seconds, metrics.rss_bytes >> 20, &v[..3]),
        Event::Sample(s) => println!("{:?} -> {:?} gold {} r {}", s.prompt, s.completion, s.gold, s.reward),
        other => println!("{:6.1} {other:?}", start.elapsed().as_secs_f64()),
    });
    println!("{:6.1} {r:?}", start.elapsed().as_secs_f64());
}
