//! Guarantees of a whole training run: labels cannot leak, runs are bit-identical, faults are reported as errors.

mod process;

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::Arc;

use stssad::data::category::{self, Category, Layout};
use stssad::data::{Channels, Images, Loading, Set, Size, Source, Task, Visible, load};
use stssad::engine::gpu::{Choice, Device, Executor, GpuError, States, Tally};
use stssad::engine::philox::Stream;
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::tape::Tape;
use stssad::engine::tensor::Tensor;
use stssad::ssad::augment::{Augmentation, CutDiff, Rotation};
use stssad::ssad::bilevel::Order;
use stssad::ssad::config::Config;
use stssad::ssad::method::Method;
use stssad::ssad::method::Rule;
use stssad::ssad::nn::{Detector, Plain, Stage};
use stssad::ssad::step::TrainingStep;
use stssad::training::trainer::{Progress, Snapshot, TrainError, Trained, Trainer, choose};

/// The device under test. Without one the tests fail: a skipped test proves nothing.
fn device() -> Device {
    Device::open(&Choice::Best).unwrap_or_else(|error| panic!("{error}"))
}

fn config(augmentation: impl Augmentation + 'static, seed: u64) -> Config {
    let stages = vec![Stage { channels: 4, stride: 2 }, Stage { channels: 8, stride: 2 }];
    let detector = Detector::new(1, Arc::new(Plain(stages)), vec![8]);
    let (batch, batch_val) = (6, 8);
    Config { steps: 6, warm_up: 2, batch, batch_val, seed, ..Config::new(detector, Box::new(augmentation)) }
}

/// Noise with a bright upper half for normal images and a bright lower half for anomalies.
fn task(seed: u64) -> Task {
    let mut stream = Stream::new(seed, 99);
    let mut images = |anomalous: bool| {
        let pixel = |index: usize| (index / 12 % 12 < 6) != anomalous;
        let data = (0..20 * 144).map(|index| 0.5 * stream.uniform() as f32 + 0.5 * f32::from(u8::from(pixel(index))));
        Images::of(Tensor::new([20, 1, 12, 12], data.collect()))
    };
    let normal = Set::of_class(images(false), "upper", "upper", false);
    let anomaly = Set::of_class(images(true), "lower", "lower", true);
    Task::semantic(&normal, &anomaly, 12, 6, 6, seed).unwrap()
}

fn train(config: &Config, task: &Task) -> Trained {
    let mut trainer = Trainer::new(&device(), config, task.visible(), |_, _| {}).unwrap();
    alone(trainer.train(1, |_| {}).unwrap())
}

/// The result of a group with a single start.
fn alone(trained: Vec<Trained>) -> Trained {
    let [trained] = <[Trained; 1]>::try_from(trained).unwrap();
    trained
}

fn bits(trained: &Trained) -> BTreeMap<&str, Vec<u32>> {
    let states = trained.states.iter();
    states.map(|(name, tensor)| (name.as_str(), tensor.data().iter().map(|x| x.to_bits()).collect())).collect()
}

#[test]
fn validation_labels_cannot_leak() {
    let (config, task) = (config(Rotation::default(), 3), task(3));
    let mut shuffled = task.clone();
    shuffled.test.truths =
        Stream::new(1, 98).permutation(12).iter().map(|&row| task.test.truths[row].clone()).collect();
    assert_ne!(task.test.labels(), shuffled.test.labels(), "the shuffle changes the labels");
    let (with, without) = (train(&config, &task), train(&config, &shuffled));
    assert!(bits(&with).contains_key("a") && bits(&with).contains_key("encoder.0.kernel"));
    assert_eq!(bits(&with), bits(&without));
    assert_eq!(with.scores, without.scores);
}

#[test]
fn equal_seeds_give_bit_identical_runs_and_different_seeds_do_not() {
    let task = task(4);
    let run = |seed: u64| train(&config(CutDiff, seed), &task);
    let (first, second, other) = (run(4), run(4), run(5));
    assert_eq!(bits(&first), bits(&second));
    assert_ne!(bits(&first)["encoder.0.kernel"], bits(&other)["encoder.0.kernel"]);
}

#[test]
fn a_trainer_can_be_reused_with_the_same_result() {
    let (config, task) = (config(Rotation::default(), 5), task(5));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let first = alone(trainer.train(0, |_| {}).unwrap());
    trainer.train(2, |_| {}).unwrap();
    assert_eq!(bits(&first), bits(&alone(trainer.train(0, |_| {}).unwrap())));
}

#[test]
fn training_resumes_bit_identically_and_refuses_a_snapshot_of_another_network() {
    let (config, task) = (config(CutDiff, 12), task(12));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let whole = alone(trainer.train(1, |_| {}).unwrap());
    trainer.begin(1).unwrap();
    (0..4).for_each(|_| drop(trainer.step().unwrap()));
    let snapshot = trainer.snapshot().unwrap();
    assert_eq!((snapshot.start, snapshot.step), (1, 4));
    trainer.train(0, |_| {}).unwrap();

    let mut other = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    other.restore(&snapshot).unwrap();
    while other.step().unwrap().is_some() {}
    let resumed = alone(other.assess().unwrap());
    assert_eq!((bits(&resumed), &resumed.scores), (bits(&whole), &whole.scores));

    let mut lacking = snapshot.clone();
    let (lost, _) = lacking.states.pop().unwrap();
    let refused = other.restore(&lacking).unwrap_err();
    assert!(matches!(&refused, TrainError::Mismatch { state } if *state == lost), "{refused}");
    lacking.states.push(("of another".into(), Tensor::scalar(0.0)));
    assert!(other.restore(&lacking).is_err());
}

/// Three starts: two form a group, and the last is repeated to fill another.
fn together(config: Config) -> Config {
    Config { starts: config.starts[..3].to_vec(), together: 2, ..config }
}

#[test]
fn starts_that_train_together_take_the_same_steps_as_alone() {
    let task = task(14);
    for method in [Method::StSsad, Method::RandomStatic, Method::DeepSvdd] {
        let mut config = Config { method, warm_up: 1, steps: 2, ..together(config(CutDiff, 14)) };
        if method == Method::DeepSvdd {
            config.starts = vec![Vec::new(); 3];
        }
        let steps = |config: &Config, groups: &[usize]| -> Vec<Progress> {
            let mut trainer = Trainer::new(&device(), config, task.visible(), |_, _| {}).unwrap();
            let mut steps = Vec::new();
            for &first in groups {
                let trained = trainer.train(first, |progress| steps.push(progress)).unwrap();
                assert_eq!(trained.len(), config.members(first).len());
                let starts: Vec<&Vec<f32>> = trained.iter().map(|trained| &trained.start).collect();
                assert_eq!(starts, config.starts[config.members(first)].iter().collect::<Vec<_>>());
            }
            steps.sort_by_key(|progress| (progress.start, progress.step));
            steps
        };
        let side_by_side = steps(&config, &[0, 2]);
        let alone = steps(&Config { together: 1, ..config }, &[0, 1, 2]);
        assert_eq!(side_by_side.len(), 6);
        for (got, want) in side_by_side.iter().zip(&alone) {
            assert_eq!((got.start, got.step), (want.start, want.step));
            // Each start sums its terms in the same order, except in the head: a hundred roundings.
            let agree = |got: f32, want: f32| (got - want).abs() <= 1e-5 * want.abs().max(1.0);
            let outers = [got, want].map(|progress| progress.outer.unwrap_or_default());
            assert!(agree(got.inner, want.inner) && agree(outers[0], outers[1]), "{method:?}: {got:?}, {want:?}");
            assert!(got.a.iter().zip(&want.a).all(|(&got, &want)| agree(got, want)), "{method:?}: {got:?}, {want:?}");
        }
    }
}

#[test]
fn a_group_of_starts_resumes_bit_identically() {
    let (config, task) = (together(config(Rotation::default(), 15)), task(15));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    for first in [0, 2] {
        let whole = trainer.train(first, |_| {}).unwrap();
        trainer.begin(first).unwrap();
        (0..3).for_each(|_| drop(trainer.step().unwrap()));
        let snapshot = trainer.snapshot().unwrap();
        assert_eq!((snapshot.start, snapshot.step), (first, 3));
        trainer.train(1, |_| {}).unwrap();
        trainer.restore(&snapshot).unwrap();
        while trainer.step().unwrap().is_some() {}
        assert_eq!(trainer.assess().unwrap(), whole);
    }
}

/// A step that returns its progress.
type Step<'a> = fn(&mut Trainer<'a>) -> Result<Option<Vec<Progress>>, TrainError>;

#[test]
fn a_device_that_is_a_step_ahead_trains_with_the_same_bits_and_is_caught_up_with_anywhere() {
    let (config, task) = (together(config(CutDiff, 23)), task(23));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    // Step by step, with the states after each.
    let (mut steps, mut snapshots) = (Vec::new(), vec![trainer.snapshot().unwrap()]);
    while let Some(progress) = trainer.step().unwrap() {
        steps.push(progress);
        snapshots.push(trainer.snapshot().unwrap());
    }
    let trained = trainer.assess().unwrap();
    assert_eq!(steps.len(), 6);
    for caught_up in 1..=6 {
        trainer.begin(0).unwrap();
        let mut ahead = Vec::new();
        for (done, snapshot) in snapshots.iter().enumerate().skip(1) {
            let progress = if done == caught_up { trainer.step() } else { trainer.step_ahead() };
            ahead.push(progress.unwrap().unwrap());
            assert_eq!(trainer.done(), done);
            if done == caught_up {
                assert_eq!(&trainer.snapshot().unwrap(), snapshot);
            }
        }
        assert!(trainer.step_ahead().unwrap().is_none());
        assert_eq!(ahead, steps);
        assert_eq!((trainer.snapshot().unwrap(), trainer.assess().unwrap()), (snapshots[6].clone(), trained.clone()));
    }
    // A step that is under way does not disturb another beginning.
    trainer.begin(0).unwrap();
    trainer.step_ahead().unwrap();
    trainer.restore(&snapshots[4]).unwrap();
    assert_eq!(trainer.step_ahead().unwrap().unwrap(), steps[4]);
    assert_eq!(finished(&mut trainer), trained);
}

#[test]
#[should_panic(expected = "states are read after `step`")]
fn states_are_not_read_while_the_device_is_a_step_ahead() {
    let (config, task) = (config(CutDiff, 23), task(23));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    trainer.step_ahead().unwrap();
    let _ = trainer.snapshot();
}

/// The snapshot with one number of a state set to `value`, in one of `places` starts side by side.
fn planted(mut snapshot: Snapshot, state: &str, place: usize, places: usize, value: f32) -> Snapshot {
    let (_, tensor) = snapshot.states.iter_mut().find(|(name, _)| name == state).unwrap();
    let mut data = tensor.data().to_vec();
    let own = data.len() / places;
    data[place * own] = value;
    *tensor = Tensor::new(tensor.shape().clone(), data);
    snapshot
}

fn finished(trainer: &mut Trainer) -> Vec<Trained> {
    while trainer.step().unwrap().is_some() {}
    trainer.assess().unwrap()
}

#[test]
fn a_diverged_start_is_marked_and_does_not_affect_the_others() {
    let (config, task) = (together(config(CutDiff, 16)), task(16));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let sound = trainer.train(0, |_| {}).unwrap();
    trainer.begin(0).unwrap();
    trainer.step().unwrap();
    let snapshot = planted(trainer.snapshot().unwrap(), "encoder.0.kernel", 1, 2, f32::NAN);
    trainer.restore(&snapshot).unwrap();
    let progress = trainer.step_ahead().unwrap().unwrap();
    assert_eq!(progress.iter().map(|own| (own.start, own.step)).collect::<Vec<_>>(), [(0, 2)]);
    let ahead = finished(&mut trainer);
    trainer.restore(&snapshot).unwrap();
    assert_eq!(trainer.step().unwrap().unwrap(), progress);

    // What is kept of it is finite, so checkpoints remain readable.
    let between = trainer.snapshot().unwrap();
    assert!(between.states.iter().flat_map(|(_, tensor)| tensor.data()).all(|x| x.is_finite()));
    assert_eq!(between.failed.keys().collect::<Vec<_>>(), [&1]);
    let trained = finished(&mut trainer);
    let mut other = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    other.restore(&between).unwrap();
    assert_eq!(finished(&mut other), trained, "a resumed run knows what failed");
    assert_eq!(ahead, trained, "and a step that was under way as it failed does not matter");

    assert_eq!((bits(&trained[0]), &trained[0].scores), (bits(&sound[0]), &sound[0].scores));
    let [_, failed] = &trained[..] else { panic!("two starts") };
    let reason = failed.failed.clone().unwrap();
    assert!(reason.starts_with("diverged at step 2: the") && reason.contains("not finite"), "{reason}");
    assert_eq!((failed.exceedance(Rule::Logit), failed.states.len()), (None, 0));
    assert_eq!((&failed.start, &failed.end), (&config.starts[1], &config.starts[1]), "the warm-up leaves a as it is");
    assert_eq!(choose(&trained, config.score).unwrap(), 0);
    let none = choose(&trained[1..], config.score).unwrap_err();
    assert!(matches!(&none, TrainError::NoStart(reasons) if *reasons == [reason]), "{none}");
}

#[test]
fn a_weight_that_is_not_finite_ends_its_start_at_that_step() {
    let task = task(17);
    for warm_up in [0, 2] {
        let config = Config { warm_up, ..config(Rotation::default(), 17) };
        let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
        // A ReLU follows each of them, which must not turn NaN into 0.
        for (state, value) in [
            ("encoder.0.kernel", f32::NAN),
            ("encoder.1.gamma", -f32::NAN),
            ("head.0.beta", f32::NAN),
            ("encoder.1.kernel", f32::INFINITY),
        ] {
            trainer.begin(0).unwrap();
            let snapshot = planted(trainer.snapshot().unwrap(), state, 0, 1, value);
            let [alone, ahead] = [Trainer::step as Step, Trainer::step_ahead].map(|step| {
                trainer.restore(&snapshot).unwrap();
                let outcome = step(&mut trainer);
                assert!(matches!(outcome, Err(TrainError::Diverged { start: 0, step: 1, .. })), "{state}: {outcome:?}");
                assert!(step(&mut trainer).unwrap().is_none(), "nothing is left to go on");
                (format!("{outcome:?}"), trainer.snapshot().unwrap(), trainer.assess().unwrap())
            });
            assert!(alone.2[0].failed.is_some());
            assert_eq!(ahead, alone);
        }
    }
}

#[test]
fn an_infinite_gradient_or_step_is_named_when_it_occurs() {
    let task = task(18);
    // The losses of this step are finite; only its last update is not.
    let config_of = |rate: f64| Config { rate, steps: 1, warm_up: 0, ..config(Rotation::default(), 18) };
    let config = config_of(f64::INFINITY);
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let error = trainer.train(0, |_| {}).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { step: 1, what: "the new weights are", .. }), "{error}");
    assert!(error.to_string().contains("the new weights are not finite; a smaller learning rate"), "{error}");

    // An overflowing moment would stop a parameter silently: the figures must show the gradient itself.
    let config = config_of(1e-3);
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let snapshot = planted(trainer.snapshot().unwrap(), "a.m", 0, 1, f32::INFINITY);
    trainer.restore(&snapshot).unwrap();
    let error = trainer.step().unwrap_err();
    let what = "the augmentation's new hyper-parameters are";
    assert!(matches!(&error, TrainError::Diverged { what: found, .. } if *found == what), "{error}");
}

#[test]
fn a_bound_does_not_hide_a_diverged_hyper_parameter() {
    // The area is clamped to bounds, which must not turn NaN into a number.
    let (config, task) = (Config { warm_up: 0, ..config(CutDiff, 19) }, task(19));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let snapshot = planted(trainer.snapshot().unwrap(), "a.m", 0, 1, f32::NAN);
    trainer.restore(&snapshot).unwrap();
    let error = trainer.step().unwrap_err();
    assert!(matches!(error, TrainError::Diverged { start: 0, step: 1, .. }), "{error}");
}

#[test]
fn a_start_with_states_that_are_not_finite_is_not_chosen() {
    let (config, task) = (config(Rotation::default(), 20), task(20));
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    while trainer.step().unwrap().is_some() {}
    // Training does not read the running statistics, so no step can show it.
    let snapshot = planted(trainer.snapshot().unwrap(), "encoder.0.variance", 0, 1, f32::NAN);
    trainer.restore(&snapshot).unwrap();
    let trained = alone(trainer.assess().unwrap());
    let reason = trained.failed.as_deref().unwrap();
    assert!(reason.contains("`encoder.0.variance` is not finite"), "{reason}");
    assert!(choose(&[trained], Rule::Logit).is_err());
}

/// Training from files, with and without a cache, is training from memory.
#[test]
fn images_from_files_train_as_those_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    category::write(folder.path(), &task(22)).unwrap();
    let (layout, root, category) = (Layout::Mvtec, folder.path().into(), "upper-lower".to_owned());
    let source = Source::Category(Category { layout, root, category, defect: None });
    let trained = |cache_bytes: u64, is_held: bool| {
        let loading =
            Loading { size: Some(Size::square(12)), channels: Some(Channels::Grey), cache_bytes, ..Loading::default() };
        let task = load(&source, &loading, |_, _| {}).unwrap().task;
        let Visible { train, val } = task.visible();
        let [trn, v] =
            [train, val].map(|images| if is_held { Images::of(images.all().unwrap()) } else { images.clone() });
        let config = config(Rotation::default(), 22);
        let mut trainer = Trainer::new(&device(), &config, Visible { train: &trn, val: &v }, |_, _| {}).unwrap();
        let mut steps = Vec::new();
        let trained = alone(trainer.train(0, |progress| steps.push(progress)).unwrap());
        (steps, trained.scores.clone(), format!("{:?}", bits(&trained)))
    };
    let held = trained(0, true);
    assert_eq!(held.0.len(), 6);
    assert_eq!(trained(0, false), held);
    assert_eq!(trained(1 << 30, false), held);
}

#[test]
fn an_image_that_vanishes_ends_training_after_the_last_step_that_could_be_begun() {
    let folder = tempfile::tempdir().unwrap();
    category::write(folder.path(), &task(24)).unwrap();
    let (layout, root, category) = (Layout::Mvtec, folder.path().into(), "upper-lower".to_owned());
    let source = Source::Category(Category { layout, root, category, defect: None });
    let size = Some(Size::square(12));
    let loading = Loading { size, channels: Some(Channels::Grey), cache_bytes: 0, ..Loading::default() };
    let task = load(&source, &loading, |_, _| {}).unwrap().task;
    let config = config(Rotation::default(), 24);
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let whole: Vec<_> = std::iter::from_fn(|| trainer.step().unwrap()).take(3).collect();
    trainer.begin(0).unwrap();
    let mut steps = vec![trainer.step_ahead().unwrap().unwrap()];
    folder.close().unwrap();
    // The second was begun before.
    steps.push(trainer.step_ahead().unwrap().unwrap());
    assert_eq!(steps, whole[..2]);
    let error = trainer.step_ahead().unwrap_err();
    assert!(matches!(error, TrainError::Data(_)), "{error}");
}

#[test]
fn without_a_distance_the_logits_are_the_scores() {
    let mut task = task(21);
    task.train.images = Images::of(Tensor::full(task.train.images.shape(), 0.5));
    let of_rule = |score: Rule| {
        let config = Config { score, steps: 2, warm_up: 1, ..config(CutDiff, 21) };
        let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
        alone(trainer.train(0, |_| {}).unwrap())
    };
    let by_logit = of_rule(Rule::Logit);
    assert_eq!((&by_logit.failed, &by_logit.fit), (&None, &None));
    assert_eq!((by_logit.exceedance(Rule::Distance), by_logit.exceedance(Rule::Logit).is_some()), (Some(0.0), true));
    assert_eq!(by_logit.scores_by(Rule::Logit)[1].len(), 12);
    assert!(by_logit.scores_by(Rule::Logit).iter().flatten().all(|score| score.is_finite()));
    let by_distance = of_rule(Rule::Distance);
    assert!(by_distance.failed.as_ref().is_some_and(|reason| reason.contains("singular")), "{by_distance:?}");
    assert_eq!(choose(&[by_distance, by_logit], Rule::Logit).unwrap(), 1);
}

#[test]
fn identical_training_images_are_noted_and_fail_only_if_a_distance_is_needed() {
    let root = process::folder("identical");
    let mut noise = Stream::new(5, 0);
    for index in 0..6 {
        for (kind, is_black) in [("good", true), ("unlabelled", false)] {
            let grey = |_, _| image::Luma([if is_black { 0 } else { (256.0 * noise.uniform()) as u8 }]);
            std::fs::create_dir_all(root.join(kind)).unwrap();
            image::GrayImage::from_fn(24, 24, grey).save(root.join(kind).join(format!("{index}.png"))).unwrap();
        }
    }
    let run = |out: &str, score: &str| {
        let (data, out) = (process::text(&root).to_owned(), root.join(out));
        let set =
            ["train", "--data", "folder", "--root", &data, "--normal-dir", "good", "--unlabelled-dir", "unlabelled"];
        let small = ["--size", "24", "--encoder", "small", "--steps", "2", "--starts", "2", "--no-report"];
        let said = process::stssad(&[&set, &small, &["--score", score, "--out", process::text(&out)]]);
        (said, out.join("result.json"))
    };
    let (said, result) = run("logit", "logit");
    said.with(0).notice(&["all 6 training images are identical"]);
    let starts = process::json(&result)["starts"].clone();
    assert!(
        starts.as_array().unwrap().iter().all(|start| start["exceedance"].is_f64() && start.get("failed").is_none()),
        "{starts}"
    );
    let (said, result) = run("distance", "distance");
    said.with(70).error(&["every start failed: start 1:", "start 2:", "singular"]);
    assert!(!result.exists());
}

#[test]
fn a_step_is_bit_identical_however_slots_are_shared() {
    let task = task(6);
    let device = device();
    let run = |reuse: Reuse| {
        let config = Config { reuse, warm_up: 0, steps: 2, ..config(Rotation::default(), 6) };
        let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {}).unwrap();
        let trained = trainer.train(0, |_| {}).unwrap().remove(0);
        let plan = trainer.full_step().unwrap().plan();
        let copied: u64 = plan.copies().map(|copy| copy.state.bytes()).sum();
        (trained, plan.live_bytes, [plan.bytes_without_reuse, copied], plan.slot_bytes(), plan.steps.len())
    };
    let (shared, live, all, slots, dispatches) = run(Reuse::On);
    assert!(shared.states.iter().flat_map(|(_, tensor)| tensor.data()).all(|x| x.is_finite()));
    let (own, _, all_own, slots_own, _) = run(Reuse::Off);
    assert_eq!(bits(&shared), bits(&own));
    // States that are computed in place take no slots; those that are copied do.
    assert!(slots < slots_own && slots_own == all_own[0]);
    assert_eq!((all[1], all[0]), (0, all_own[0] - all_own[1]));
    let (again, live_again, _, _, dispatches_again) = run(Reuse::Recompute);
    assert_eq!(bits(&shared), bits(&again));
    assert!(live_again < live && dispatches_again > dispatches, "{live_again} of {live} bytes live");
}

#[test]
fn later_steps_allocate_nothing_on_the_device_and_submit_as_planned() {
    let (config, task) = (config(CutDiff, 13), task(13));
    let device = device();
    let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {}).unwrap();
    let mut before = device.tally();
    assert!(before.buffers > 100 && before.bind_groups > 100 && before.pipelines > 20, "{before:?}");
    // Two steps that do not tune, then four that do; uploads and readback of the figures included.
    for step in 1..=6 {
        let executor = if step <= 2 { trainer.plain_step() } else { trainer.full_step() };
        let submits = executor.unwrap().submits() as u64;
        trainer.step().unwrap().unwrap();
        assert_eq!(device.tally() - before, Tally { submits, ..Tally::default() });
        before = device.tally();
    }
    trainer.snapshot().unwrap();
    assert!((device.tally() - before).buffers > 0, "what is read back otherwise is counted");
}

#[test]
fn the_device_is_given_one_step_ahead_and_no_more() {
    let (config, task) = (Config { warm_up: 0, ..config(CutDiff, 25) }, task(25));
    let device = device();
    let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {}).unwrap();
    trainer.full_step().unwrap().cut_every(40);
    let submits = trainer.full_step().unwrap().submits() as u64;
    let mut before = device.tally();
    // The second results are of the two steps that are on their way together.
    for (runs, buffers) in [(2, 1), (1, 0), (1, 0), (1, 0), (1, 0), (0, 0)] {
        trainer.step_ahead().unwrap().unwrap();
        assert_eq!(device.tally() - before, Tally { submits: runs * submits, buffers, ..Tally::default() });
        before = device.tally();
    }
}

#[test]
fn a_step_of_many_submits_is_bit_identical() {
    let task = task(17);
    for micro_batches in [1, 2] {
        let config = Config { micro_batches, steps: 3, warm_up: 1, ..config(Rotation::default(), 17) };
        let run = |dispatches: usize| {
            let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
            trainer.full_step().unwrap().cut_every(dispatches);
            trainer.plain_step().unwrap().cut_every(dispatches);
            let mut steps = Vec::new();
            let trained = alone(trainer.train(0, |progress| steps.push(progress)).unwrap());
            (trainer.full_step().unwrap().submits(), steps, trained)
        };
        let (submits, whole, trained) = run(usize::MAX);
        assert_eq!((submits, whole.len()), (1, 3));
        for dispatches in [1, 40] {
            let (submits, cut, trained_cut) = run(dispatches);
            assert!(submits > 5, "{submits} submits");
            assert_eq!((&cut, bits(&trained_cut)), (&whole, bits(&trained)));
            assert_eq!(trained_cut.scores, trained.scores);
        }
    }
}

#[test]
fn training_ends_if_the_driver_does_not_execute_a_step() {
    let (config, task) = (config(CutDiff, 18), task(18));
    let device = device();
    let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {}).unwrap();
    // All submits but the dropped one are executed, and the driver reports no error.
    for lost in 0..3 {
        trainer.begin(0).unwrap();
        trainer.plain_step().unwrap().cut_every(30);
        trainer.step().unwrap();
        device.lose_submit(lost);
        let error = trainer.step().unwrap_err();
        assert!(matches!(error, TrainError::Gpu(GpuError::Lost { .. })), "{error}");
    }
    // Nor if it does not execute one that it was given ahead: the step before it is whole.
    trainer.begin(0).unwrap();
    let submits = trainer.plain_step().unwrap().submits() as u64;
    device.lose_submit(submits);
    assert_eq!(trainer.step_ahead().unwrap().unwrap()[0].step, 1);
    let error = trainer.step_ahead().unwrap_err();
    assert!(matches!(error, TrainError::Gpu(GpuError::Lost { .. })), "{error}");
}

#[test]
fn the_second_order_term_reaches_a() {
    let task = task(7);
    let end = |order: Order| {
        let config = Config { order, look_ahead: 2.0, ..config(Rotation::default(), 7) };
        train(&config, &task).end
    };
    assert_ne!(end(Order::First), end(Order::Second));
}

#[test]
fn divergence_is_an_error_that_names_start_and_step() {
    let config = Config { rate: f64::from(f32::MAX), ..config(Rotation::default(), 8) };
    let task = task(8);
    let mut trainer = Trainer::new(&device(), &config, task.visible(), |_, _| {}).unwrap();
    let error = trainer.train(0, |_| {}).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { start: 0, step: 1..=6, .. }), "{error}");
}

#[test]
fn a_lost_device_is_an_error() {
    let (config, task) = (config(Rotation::default(), 9), task(9));
    let device = device();
    let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {}).unwrap();
    let mut steps = 0;
    let error = trainer.train(0, |_| {
        steps += 1;
        if steps == 2 {
            device.destroy();
        }
    });
    assert!(matches!(error, Err(TrainError::Gpu(_))), "{error:?}");
}

#[test]
fn feeds_and_states_of_the_wrong_shape_are_refused() {
    let (config, task) = (config(Rotation::default(), 10), task(10));
    let device = device();
    let recorded = TrainingStep::record(&config, [1, 12, 12]).unwrap();
    let unbound = Executor::new(
        &device,
        recorded.tuning_plan(device.class(), Reuse::On).unwrap(),
        &States::new(&device),
        |_, _| {},
    );
    assert!(matches!(unbound, Err(GpuError::Unknown { kind: "state", .. })));

    let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {}).unwrap();
    let executor = trainer.full_step().unwrap();
    assert!(matches!(executor.feed("x", &Tensor::scalar(1.0)), Err(GpuError::Shape { .. })));
    assert!(matches!(executor.feed("y", &Tensor::scalar(1.0)), Err(GpuError::Unknown { kind: "feed", .. })));
}

#[test]
fn a_value_larger_than_the_device_takes_is_an_error_that_names_it() {
    let device = device();
    let mut tape = Tape::new();
    let elements = device.adapter().max_buffer_bytes as usize / 4 + 1;
    let x = tape.feed("x", [elements]);
    let y = tape.relu(x);
    let plan = Plan::new(&tape, &[y], &[], device.class(), Reuse::On);
    let refused = Executor::new(&device, plan, &States::new(&device), |_, _| {}).unwrap_err();
    assert!(matches!(&refused, GpuError::TooLarge { bytes, limit, .. } if bytes > limit), "{refused}");
    assert!(refused.to_string().contains("feed x"), "{refused}");
}

#[test]
fn a_batch_larger_than_its_set_is_refused() {
    let config = Config { batch: 100, ..config(Rotation::default(), 11) };
    let task = task(11);
    let refused = Trainer::new(&device(), &config, task.visible(), |_, _| {});
    assert!(matches!(refused, Err(TrainError::Data(_))));
}

fn stssad(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stssad"));
    command.args(arguments).envs(environment.iter().copied()).output().expect("the binary starts")
}

#[test]
fn without_an_adapter_the_command_says_what_to_install_and_exits_4() {
    let nowhere = [("VK_DRIVER_FILES", "/nonexistent"), ("VK_ICD_FILENAMES", "/nonexistent")];
    for command in ["demo", "devices"] {
        let output = stssad(&[command], &nowhere);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{message}");
        assert!(message.contains("mesa-vulkan-drivers") && !message.contains("panicked"), "{message}");
        assert_eq!(message.trim().lines().count(), 1, "{message}");
    }
}

#[test]
fn exit_codes_are_the_documented_ones() {
    assert_eq!(stssad(&["demo", "--order", "3"], &[]).status.code(), Some(2));
    assert_eq!(stssad(&["nonsense"], &[]).status.code(), Some(2));
    assert_eq!(stssad(&["demo", "--adapter", "no such adapter"], &[]).status.code(), Some(2));
    assert_eq!(stssad(&["devices", "--json"], &[]).status.code(), Some(0));
}

#[test]
fn check_passes_on_the_shipped_kernels_and_names_a_planted_fault() {
    let good = stssad(&["check", "layout/pad"], &[]);
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stdout));

    let folder = std::env::temp_dir().join(format!("stssad-planted-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("layout")).unwrap();
    let text = include_str!("../shaders/layout/pad.wgsl");
    let planted = text.replace("source < extents.x_row", "source <= extents.x_row");
    assert_ne!(text, planted);
    std::fs::write(folder.join("layout/pad.wgsl"), planted).unwrap();
    let bad = stssad(&["check", "layout/pad", "--shaders", folder.to_str().unwrap()], &[]);
    std::fs::remove_dir_all(&folder).unwrap();
    let report = String::from_utf8(bad.stdout).unwrap();
    assert_eq!(bad.status.code(), Some(1), "{report}");
    for part in ["FAILED layout/pad: ", "layout/pad.wgsl:23: out-of-bounds", "again: stssad check --shaders"] {
        assert!(report.contains(part), "no `{part}` in {report}");
    }
}
