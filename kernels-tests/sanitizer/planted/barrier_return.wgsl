// The surplus invocations return before the barrier.
// dispatch: 2 | 100 100
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> row: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    if i >= arrayLength(&y) { // sound: if lane >= 64u {
        return;
    }
    if i < arrayLength(&y) {
        row[lane] = x[i];
    }
    workgroupBarrier(); // reports: barrier
    if i < arrayLength(&y) {
        y[i] = row[lane];
    }
}
