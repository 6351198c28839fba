//! Which adapter is opened.

use super::{AdapterSummary, GpuError};

/// Which adapter to open.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Choice {
    /// A discrete GPU before an integrated one before a CPU driver.
    #[default]
    Best,
    /// By its position in the list of [`adapters`](super::adapters) or its place on the PCI bus; anything else is a part of the name,
    /// in any case. Of digits alone it is a whole word of it: 4090 is one of `RTX 4090`, 2 none of `256 bits`.
    Named(String),
}

impl From<&str> for Choice {
    fn from(text: &str) -> Self {
        Choice::Named(text.to_owned())
    }
}

impl Choice {
    /// Checks that one of these adapters is the chosen one, without opening it.
    ///
    /// # Errors
    /// When there is none.
    pub fn check(&self, adapters: &[AdapterSummary]) -> Result<(), GpuError> {
        self.among(adapters).map(drop)
    }

    /// The position of the chosen one among all adapters, the best first, and what there is to say of it: that other
    /// adapters fit too, or that a CPU driver was taken for want of a GPU.
    pub(super) fn among(&self, adapters: &[AdapterSummary]) -> Result<(usize, Option<String>), GpuError> {
        let numbered = |index: usize| format!("{index}  {} ({})", adapters[index].name, adapters[index].backend);
        let is_usable = |index: &usize| adapters[*index].unusable.is_none();
        if adapters.is_empty() {
            return Err(GpuError::NoAdapter(String::new()));
        }
        let Choice::Named(asked) = self else {
            let refused = adapters.iter().filter_map(|adapter| Some((adapter, adapter.unusable.as_ref()?)));
            let told = |class: fn(&AdapterSummary) -> bool| -> String {
                let refused = refused.clone().filter(|(adapter, _)| class(adapter));
                refused.map(|(adapter, reason)| format!("; {}: {reason}", adapter.name)).collect()
            };
            let best = (0..adapters.len())
                .find(is_usable)
                .ok_or_else(|| GpuError::NoAdapter(format!(" among the {} found{}", adapters.len(), told(|_| true))))?;
            let remark = (adapters[best].class == "cpu").then(|| {
                let refused = told(|adapter| adapter.class != "cpu");
                let found = if refused.is_empty() { "no GPU was found" } else { "no GPU that was found can be used" };
                format!("{found}, so a CPU driver computes, many times slower{refused}")
            });
            return Ok((best, remark));
        };
        if let Some(number) = asked.parse().ok().filter(|&number| number < adapters.len()) {
            return Ok((number, None));
        }
        let part = asked.trim().to_lowercase();
        if let Some(place) = adapters.iter().position(|adapter| adapter.pci.as_ref() == Some(&part)) {
            return Ok((place, None));
        }
        let is_number = part.bytes().all(|letter| letter.is_ascii_digit());
        let fits = |index: &usize| {
            let name = adapters[*index].name.to_lowercase();
            match is_number {
                true => {
                    !part.is_empty() && name.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == part)
                }
                false => name.contains(&part),
            }
        };
        let fitting: Vec<usize> = (0..adapters.len()).filter(fits).collect();
        let Some(&best) = fitting.iter().find(|index| is_usable(index)).or(fitting.first()) else {
            let found = (0..adapters.len()).map(numbered).collect();
            return Err(GpuError::NoSuchAdapter { asked: asked.clone(), found });
        };
        let others: Vec<String> = fitting.into_iter().filter(|&other| other != best).map(numbered).collect();
        let remark = (!others.is_empty())
            .then(|| format!("`{asked}` fits {} too; the best is taken: {}", others.join(", "), numbered(best)));
        Ok((best, remark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adapters by name and class, the best first; those whose name ends in `!` cannot be used.
    fn adapters(all: &[(&str, &str)]) -> Vec<AdapterSummary> {
        let adapter = |&(name, class): &(&str, &str)| AdapterSummary {
            name: name.to_owned(),
            backend: "vulkan".to_owned(),
            class: class.to_owned(),
            unusable: name.ends_with('!').then(|| "it has no immediates".to_owned()),
            ..AdapterSummary::default()
        };
        all.iter().map(adapter).collect()
    }

    fn two() -> Vec<AdapterSummary> {
        adapters(&[("NVIDIA GeForce RTX 4090", "discrete"), ("Radeon RX 7900 XTX", "discrete"), ("llvmpipe", "cpu")])
    }

    #[test]
    fn a_number_within_the_list_is_a_position_and_any_other_a_part_of_the_name() {
        for (text, position) in [("0", 0), ("2", 2), ("4090", 0), ("7900", 1), ("radeon", 1), (" LLVM", 2)] {
            assert_eq!(Choice::from(text).among(&two()), Ok((position, None)), "{text}");
        }
    }

    #[test]
    fn a_place_on_the_bus_is_one_adapter() {
        let mut same = adapters(&[("RTX 4090", "discrete"), ("RTX 4090", "discrete")]);
        for (adapter, place) in same.iter_mut().zip(["0000:01:00.0", "0000:c1:00.0"]) {
            adapter.pci = Some(place.to_owned());
        }
        assert_eq!(Choice::from("0000:C1:00.0").among(&same), Ok((1, None)));
        assert!(Choice::from("0000:02:00.0").among(&same).is_err());
    }

    #[test]
    fn a_choice_that_fits_none_lists_what_there_is() {
        // 3 and 90 are no words of these names.
        for text in ["770", "3", "90", "geforce 3090", ""] {
            let error = Choice::from(text).among(&two()).unwrap_err();
            assert!(matches!(&error, GpuError::NoSuchAdapter { .. }), "{error:?}");
            let error = error.to_string();
            for part in [text, "0  NVIDIA GeForce RTX 4090 (vulkan)", "1  Radeon RX 7900 XTX", "2  llvmpipe"] {
                assert!(error.contains(part), "no `{part}` in {error}");
            }
            assert!(!error.contains("install"), "{error}");
        }
    }

    #[test]
    fn of_several_that_fit_the_best_is_taken_and_the_others_are_told() {
        let all = adapters(&[("RTX 4090!", "discrete"), ("RTX 3090", "discrete"), ("RTX 3080", "discrete")]);
        let (position, remark) = Choice::from("rtx").among(&all).unwrap();
        assert_eq!(position, 1);
        let remark = remark.unwrap();
        assert!(remark.contains("0  RTX 4090!") && remark.contains("2  RTX 3080"), "{remark}");
        assert!(remark.ends_with("the best is taken: 1  RTX 3090 (vulkan)"), "{remark}");
        // One that fits alone is opened, and says itself why it cannot be used.
        assert_eq!(Choice::from("4090").among(&all), Ok((0, None)));
    }

    #[test]
    fn a_cpu_driver_that_stands_in_for_a_gpu_is_told() {
        assert_eq!(Choice::Best.among(&two()), Ok((0, None)));
        let (position, remark) = Choice::Best.among(&adapters(&[("llvmpipe", "cpu")])).unwrap();
        assert_eq!((position, remark.unwrap().split(',').next()), (0, Some("no GPU was found")));
        let (position, remark) =
            Choice::Best.among(&adapters(&[("Old GPU!", "discrete"), ("llvmpipe", "cpu")])).unwrap();
        let remark = remark.unwrap();
        assert!(position == 1 && remark.contains("Old GPU!: it has no immediates"), "{remark}");
        // Whoever names the CPU driver knows.
        assert_eq!(Choice::from("llvmpipe").among(&two()), Ok((2, None)));
    }

    #[test]
    fn no_adapter_at_all_asks_for_a_driver() {
        for choice in [Choice::Best, Choice::from("4090")] {
            let error = choice.among(&[]).unwrap_err();
            assert_eq!(error, GpuError::NoAdapter(String::new()));
            assert!(error.to_string().contains("install your GPU's Vulkan driver"), "{error}");
        }
        let error = Choice::Best.among(&adapters(&[("Old GPU!", "discrete")])).unwrap_err().to_string();
        assert!(error.contains("among the 1 found; Old GPU!: it has no immediates: install"), "{error}");
    }
}
