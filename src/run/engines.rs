//! Scripts that run a sweep on the engines that clusters have, and merge its results.
//!
//! Every engine starts the same worker, `stssad sweep run GRID --out DIR --shard I/N`: the engine counts I, and N stands in the script.
//! Snakemake, which knows each job, starts one with `--job NAME`. The worker leaves alone what is finished or running, and goes on with what was stopped, so an engine may run any part again, at any
//! time, also twice at once. What differs is how each engine counts, tries a worker again that ended with 75, and waits with the
//! merge for the rest.

use std::fmt;

use clap::ValueEnum;

/// What distributes the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// A job array, and a job that depends on it.
    Slurm,
    /// A task array.
    Hyperqueue,
    /// GNU parallel, on one machine or on several by ssh.
    Parallel,
    /// An Indexed Job, and a Job that merges.
    K8s,
    /// A workflow with a rule for the jobs and one for the table.
    Snakemake,
}

/// A sweep as an engine is to run it.
#[derive(Clone, Debug)]
pub struct Submission<'a> {
    /// The command `stssad` on the engine's machines.
    pub program: &'a str,
    /// The folder in which paths of the grid begin.
    pub folder: &'a str,
    pub grid: &'a str,
    pub out: &'a str,
    /// Further flags of `sweep run`.
    pub flags: &'a [String],
    /// Names of all jobs, in the grid's order.
    pub jobs: &'a [String],
    /// The number of workers.
    pub chunks: usize,
}

/// How often a worker is tried again that ended with 75, for engines that are to count.
const TRIES: usize = 20;

impl Engine {
    /// The command that submits to it, for engines with a script of a shell.
    pub fn command(self) -> Option<&'static str> {
        match self {
            Engine::Slurm => Some("sbatch"),
            Engine::Hyperqueue => Some("hq"),
            Engine::Parallel => Some("parallel"),
            Engine::K8s | Engine::Snakemake => None,
        }
    }

    /// Whether its script begins a worker again at once that ended with 75, whatever ended it.
    pub fn begins_again(self) -> bool {
        self != Engine::Slurm
    }

    /// A letter of a name that its scripts cannot contain: it would end a comment, or the engine would replace it.
    pub fn unspeakable(self, name: &str) -> Option<char> {
        let replaced: &[char] = match self {
            Engine::Slurm => &['%'],
            Engine::Hyperqueue => &['%', '{'],
            Engine::Parallel | Engine::Snakemake => &['{', '}'],
            Engine::K8s => &[],
        };
        name.chars().find(|letter| letter.is_control() || replaced.contains(letter))
    }

    /// The script. No name in it is [`unspeakable`](Self::unspeakable).
    pub fn script(self, sweep: &Submission) -> String {
        match self {
            Engine::Slurm => slurm(sweep),
            Engine::Hyperqueue => hyperqueue(sweep),
            Engine::Parallel => parallel(sweep),
            Engine::K8s => k8s(sweep),
            Engine::Snakemake => snakemake(sweep),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no engine is hidden").get_name())
    }
}

impl Submission<'_> {
    /// The command of one worker for a shell in which `index` expands to its number.
    fn worker(&self, index: &str) -> String {
        format!("{} --shard \"{index}/{}\"{}", self.command("run"), self.chunks, self.flags())
    }

    fn flags(&self) -> String {
        self.flags.iter().map(|flag| format!(" {}", quoted(flag))).collect()
    }

    fn command(&self, action: &str) -> String {
        format!("{} sweep {action} {} --out {}", quoted(self.program), quoted(self.grid), quoted(self.out))
    }

    fn title(&self, as_what: &str) -> String {
        format!(
            "{} jobs of {} as {} {as_what}, then their table in {}; written by `stssad sweep script`",
            self.jobs.len(),
            self.grid,
            self.chunks,
            self.out
        )
    }
}

/// A worker that is begun again while it ends with 75, but not after a signal.
fn persistent(worker: &str) -> String {
    format!(
        "trap 'exit 75' INT TERM; for try in $(seq {TRIES}); do code=0; {worker} || code=$?; [ $code = 75 ] || break; done; \
         exit $code"
    )
}

/// A word of a POSIX shell.
pub fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:,+@".contains(letter);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn slurm(sweep: &Submission) -> String {
    let title = sweep.title("tasks of a Slurm array");
    let [folder, out] = [sweep.folder, sweep.out].map(quoted);
    let last = sweep.chunks - 1;
    let (worker, merge) = (sweep.worker("$SLURM_ARRAY_TASK_ID"), sweep.command("merge"));
    format!(
        r#"#!/bin/sh
# {title}.
# Run it to submit. Flags of sbatch for the array may follow, such as --gres=gpu:1 --time=4:00:00; SBATCH_PARTITION and
# SBATCH_ACCOUNT hold for the merge too. --array=3,7 submits a part again: what is finished there is left alone. Two minutes before
# the time limit a task saves its checkpoint, and is queued again.
set -eu
cd {folder}
mkdir -p {out}
array=$(sbatch --parsable --job-name=stssad --array=0-{last} --requeue --open-mode=append --signal=USR1@120 \
    --output={out}/slurm-%a.log "$@" <<'TASK'
#!/bin/sh
# srun, since Slurm signals what srun started; it does not inherit the number of cores.
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"
srun {worker}
code=$?
if [ "$code" = 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {TRIES} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
TASK
)
array=${{array%%;*}}
merge=$(sbatch --parsable --job-name=stssad-merge --dependency="afterany:$array" --output={out}/slurm-merge.log <<'MERGE'
#!/bin/sh
exec {merge}
MERGE
)
echo "array $array, then merge ${{merge%%;*}}"
"#
    )
}

fn hyperqueue(sweep: &Submission) -> String {
    let title = sweep.title("HyperQueue tasks");
    let [folder, out, task] = [sweep.folder, sweep.out, &*persistent(&sweep.worker("$HQ_TASK_ID"))].map(quoted);
    let last = sweep.chunks - 1;
    let merge = sweep.command("merge");
    format!(
        r#"#!/bin/sh
# {title}.
# Run it where `hq server info` finds a server. Flags of hq submit may follow, such as --resource gpus/nvidia=1 or --array=3,7 for a
# part. It waits for the tasks. Those of a worker that is lost run again on another; one whose worker is lost {TRIES} times fails.
set -eu
cd {folder}
mkdir -p {out}
hq submit --wait --name=stssad --array=0-{last} --crash-limit={TRIES} --stdout={out}/hq-%{{TASK_ID}}.out \
    --stderr={out}/hq-%{{TASK_ID}}.log "$@" -- sh -c {task} || echo "some tasks failed: see {out}" >&2
exec {merge}
"#
    )
}

fn parallel(sweep: &Submission) -> String {
    let title = sweep.title("commands of GNU parallel");
    let [folder, out, task] = [sweep.folder, sweep.out, &*persistent(&sweep.worker("{}"))].map(quoted);
    let last = sweep.chunks - 1;
    let merge = sweep.command("merge");
    format!(
        r#"#!/bin/sh
# {title}.
# Flags of parallel may follow, such as --jobs 4 or --sshloginfile nodes. A signal stops the workers with checkpoints; the same
# command goes on.
set -eu
cd {folder}
mkdir -p {out}
seq 0 {last} | parallel --jobs 1 --workdir . --joblog {out}/parallel.log --termseq TERM,120000,KILL,25 "$@" {task} &
parallel=$!
stop() {{
    trap '' INT TERM HUP
    # It signals the workers, and waits for them.
    kill -TERM $parallel && wait $parallel || :
    exit 75
}}
trap stop INT TERM HUP
wait $parallel || echo "some commands failed: see {out}/parallel.log" >&2
exec {merge}
"#
    )
}

/// The most pods at once, until the user fills in another number.
const PODS: usize = 16;

/// A string of YAML and of Python.
fn string(text: &str) -> String {
    serde_json::to_string(text).expect("a string has a JSON form")
}

fn k8s(sweep: &Submission) -> String {
    let title = sweep.title("pods of an Indexed Job");
    let Submission { chunks, folder, .. } = sweep;
    let [worker, merge, folder] = [
        &*format!("exec {}", sweep.worker("$JOB_COMPLETION_INDEX")),
        &format!("exec {}", sweep.command("merge")),
        folder,
    ]
    .map(string);
    let pod = |script: &str| {
        format!(
            r#"          image: stssad # as the Containerfile in the repository of stssad makes it
          command: ["sh", "-c", {script}]
          workingDir: {folder}
          # resources: {{ limits: {{ nvidia.com/gpu: 1 }} }}
          volumeMounts: [{{ name: work, mountPath: {folder} }}]
      volumes:
        - name: work
          persistentVolumeClaim: {{ claimName: stssad }} # a volume with grid and data that all pods can write to
"#
        )
    };
    format!(
        r#"# {title}.
# Fill in image, volume, resources and parallelism; then `kubectl apply -f FILE`. The merge waits until you begin it: once
# `kubectl get job stssad` shows that the workers are complete or failed,
# `kubectl patch job stssad-merge -p '{{"spec":{{"suspend":false}}}}'`.
apiVersion: batch/v1
kind: Job
metadata: {{ name: stssad }}
spec:
  completionMode: Indexed
  completions: {chunks}
  parallelism: {pods} # as many as there are GPUs
  backoffLimitPerIndex: 3
  maxFailedIndexes: {chunks}
  podFailurePolicy:
    rules:
      # Stopped, or the device was lost: go on from the checkpoint, however often.
      - action: Ignore
        onExitCodes: {{ operator: In, values: [75] }}
      - action: Ignore
        onPodConditions: [{{ type: DisruptionTarget }}]
      # A failed job, an invalid grid, unusable data: the same again would fail again.
      - action: FailIndex
        onExitCodes: {{ operator: In, values: [1, 2, 3, 70] }}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      containers:
        - name: worker
{worker}---
# Fails if a job is missing or failed; its log has the table all the same.
apiVersion: batch/v1
kind: Job
metadata: {{ name: stssad-merge }}
spec:
  suspend: true
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: merge
{merge}"#,
        pods = chunks.min(&PODS),
        worker = pod(&worker),
        merge = pod(&merge),
    )
}

fn snakemake(sweep: &Submission) -> String {
    let title = sweep.title("Snakemake jobs");
    let jobs: String = sweep.jobs.iter().map(|name| format!("    {},\n", string(name))).collect();
    let [folder, out, run, merge] =
        [sweep.folder, sweep.out, &(sweep.command("run") + &sweep.flags()), &sweep.command("merge")].map(string);
    let task = string(&persistent("{RUN} --job {wildcards.job}"));
    format!(
        r#"# {title}.
# `snakemake -s FILE --cores 1 --keep-going`, or with an executor of a cluster. If jobs failed, they are missing in the table.
workdir: {folder}

OUT = {out}
RUN = {run}
MERGE = {merge}
JOBS = [
{jobs}]

# Marks of its own, since Snakemake removes the output of what it runs again.
DONE = expand(OUT + "/{{job}}/snakemake.done", job=JOBS)

rule all:
    input: DONE, OUT + "/snakemake.done"

rule merge:
    input: DONE
    output: touch(OUT + "/snakemake.done")
    shell: "{{MERGE}}"

rule job:
    output: touch(OUT + "/{{job}}/snakemake.done")
    shell: {task}

onerror:
    shell("{{MERGE}} || true")
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(engine: Engine) -> String {
        let jobs = ["a/one/seed0-0123".to_owned(), "b/one/seed0-4567".to_owned()];
        engine.script(&Submission {
            program: "/opt/st ssad",
            folder: "/home/it's",
            grid: "grid.toml",
            out: "sweep",
            flags: &["--adapter".to_owned(), "RTX 4090".to_owned()],
            jobs: &jobs,
            chunks: 2,
        })
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("grids/a-b_1.toml"), "grids/a-b_1.toml");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn the_number_of_workers_stands_in_every_script() {
        for (engine, index) in
            [(Engine::Slurm, "$SLURM_ARRAY_TASK_ID"), (Engine::Hyperqueue, "$HQ_TASK_ID"), (Engine::Parallel, "{}")]
        {
            let script = script(engine);
            let shard = format!("--shard \"{index}/2\" --adapter ");
            assert!(script.contains(&shard), "{engine}: no {shard} in {script}");
            assert!(script.contains(r"cd '/home/it'\''s'"), "{script}");
        }
        assert!(script(Engine::Slurm).contains("--array=0-1 "));
        assert!(script(Engine::Hyperqueue).contains("--array=0-1 "));
        let k8s = script(Engine::K8s);
        assert!(
            // The merge waits for the user, and pods for GPUs.
            k8s.contains("parallelism: 2 ")
                && k8s.contains("\n  suspend: true\n")
                && k8s.contains(r#"--shard \"$JOB_COMPLETION_INDEX/2\" --adapter"#)
                && k8s.contains("completions: 2\n"),
            "{k8s}"
        );
        let snakemake = script(Engine::Snakemake);
        assert!(
            snakemake.contains("\"a/one/seed0-0123\",") && snakemake.contains("--job {wildcards.job}"),
            "{snakemake}"
        );
    }

    /// Snakemake runs a job again, and removes its output first, if its rule changes.
    #[test]
    fn the_rule_of_a_snakemake_job_is_the_same_for_every_grid_and_flag() {
        let script = script(Engine::Snakemake);
        let (_, rule) = script.split_once("rule job:").unwrap();
        for changing in ["seed", "--adapter", "/opt", "grid.toml", "params", "result.json"] {
            assert!(
                script.contains(changing) != changing.starts_with(['p', 'r']) && !rule.contains(changing),
                "{rule}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn shells_can_read_the_scripts() {
        for engine in Engine::value_variants().iter().filter(|engine| engine.command().is_some()) {
            let parsed = std::process::Command::new("sh").args(["-n", "-c", &script(*engine)]).output().unwrap();
            assert!(parsed.status.success(), "{engine}: {}", String::from_utf8_lossy(&parsed.stderr));
        }
    }
}
