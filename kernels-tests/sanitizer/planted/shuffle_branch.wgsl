// A value handed over where half of the lanes are missing.
// dispatch: 1 | 8 8
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) lane: u32) {
    var value = x[lane];
    if lane % 2u == 0u { // sound: if lane < 8u {
        value = subgroupShuffle(value, 1u); // reports: barrier
    }
    y[lane] = value;
}
