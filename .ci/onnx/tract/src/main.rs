//! Scores images in tract by an exported graph: `tract-scores DETECTOR.onnx IMAGES`, where IMAGES has for each image a line with its
//! height, width and channels, and its bytes. Prints the scores, one a line; of a graph with heat maps, a line has the map's numbers too.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::sync::Arc;

use tract_onnx::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let [detector, images] = [1, 2].map(|at| std::env::args().nth(at).expect("DETECTOR.onnx IMAGES"));
    let (model, bytes) = (tract_onnx::onnx().model_for_path(detector)?, fs::read(images)?);
    let (mut rest, mut runnable) = (&bytes[..], HashMap::new());
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or("a line has no end")?;
        let extents: Vec<usize> = std::str::from_utf8(&rest[..end])?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let (pixels, others) = rest[end + 1..].split_at(extents.iter().product());
        rest = others;
        let shape = [&[1], &extents[..]].concat();
        let image = Tensor::from_shape(&shape, pixels)?;
        let plan = match runnable.remove(&shape) {
            Some(plan) => plan,
            None => {
                let fixed = model.clone().with_input_fact(0, u8::fact(&shape).into())?;
                Arc::clone(&fixed.into_optimized()?.into_runnable()?)
            }
        };
        let outputs = plan.run(tvec!(image.into()))?;
        print!("{}", outputs[0].to_plain_array_view::<f32>()?[[0]]);
        if outputs[1].datum_type() == f32::datum_type() {
            outputs[1].to_plain_array_view::<f32>()?.iter().for_each(|value| print!(" {value}"));
        }
        println!();
        runnable.insert(shape, plan);
    }
    Ok(())
}
