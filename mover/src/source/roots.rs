//! Where sources hang in the snapshot: each under its absolute path, as restic has it, or under the path given by `--as`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A directory of the snapshot above the sources, or a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// Leads to sources.
    Above {
        /// The directory on this machine whose metadata it gets; none if the path was given by `--as`.
        real: Option<PathBuf>,
        /// By name.
        children: BTreeMap<Vec<u8>, Root>,
    },
    /// Is one.
    Source(PathBuf),
}

/// The sources and the paths that the snapshot will name.
#[derive(Debug)]
pub(crate) struct Roots {
    /// The snapshot's root.
    pub(crate) root: Root,
    /// Absolute, sorted.
    pub(crate) paths: Vec<String>,
}

impl Roots {
    /// Sources under their own absolute paths. One that lies within another is part of it.
    pub(crate) fn of(sources: &[PathBuf], current_dir: &Path) -> Self {
        let mut absolute: Vec<PathBuf> = sources.iter().map(|source| normalize(&current_dir.join(source))).collect();
        absolute.sort();
        absolute.dedup();
        let inner = |path: &PathBuf| absolute.iter().any(|other| other != path && path.starts_with(other));
        let outer: Vec<PathBuf> = absolute.iter().filter(|path| !inner(path)).cloned().collect();
        let mut root = Root::Above { real: Some(PathBuf::from("/")), children: BTreeMap::new() };
        for path in &outer {
            root.insert(path, path, Some(Path::new("/")));
        }
        Self { root, paths: outer.iter().map(|path| path.to_string_lossy().into_owned()).collect() }
    }

    /// One source under a given absolute path.
    pub(crate) fn under(source: &Path, stored: &Path) -> Self {
        let stored = normalize(stored);
        let mut root = Root::Above { real: None, children: BTreeMap::new() };
        root.insert(&stored, source, None);
        Self { root, paths: vec![stored.to_string_lossy().into_owned()] }
    }
}

impl Root {
    fn insert(&mut self, stored: &Path, source: &Path, real: Option<&Path>) {
        let names: Vec<&OsStr> = stored.iter().filter(|name| *name != "/").collect();
        let Some((last, above)) = names.split_last() else {
            *self = Self::Source(source.to_owned());
            return;
        };
        let (mut here, mut real) = (self, real.map(Path::to_owned));
        for name in above {
            real = real.map(|real| real.join(name));
            let Self::Above { children, .. } = here else { return };
            let below = || Self::Above { real: real.clone(), children: BTreeMap::new() };
            here = children.entry(name.as_bytes().to_vec()).or_insert_with(below);
        }
        if let Self::Above { children, .. } = here {
            children.insert(last.as_bytes().to_vec(), Self::Source(source.to_owned()));
        }
    }
}

/// Without `.` and `..`, by name alone: what the user typed is what the snapshot says.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Root, at: &str, out: &mut Vec<String>) {
        match root {
            Root::Source(real) => out.push(format!("{at}={}", real.display())),
            Root::Above { children, .. } => {
                children.iter().for_each(|(name, child)| names(child, &format!("{at}/{}", String::from_utf8_lossy(name)), out));
            }
        }
    }

    fn of(sources: &[&str]) -> (Vec<String>, Vec<String>) {
        let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
        let roots = Roots::of(&sources, Path::new("/home"));
        let mut found = Vec::new();
        names(&roots.root, "", &mut found);
        (found, roots.paths)
    }

    #[test]
    fn sources_hang_under_their_absolute_paths() {
        let lists = |found: &[&str], paths: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
            (owned(found), owned(paths))
        };
        assert_eq!(of(&["/a/b", "c/../d/./e"]), lists(&["/a/b=/a/b", "/home/d/e=/home/d/e"], &["/a/b", "/home/d/e"]));
        assert_eq!(of(&["/a", "/a/b", "/a", "/ab"]), lists(&["/a=/a", "/ab=/ab"], &["/a", "/ab"]));
        assert_eq!(of(&["/"]), lists(&["=/"], &["/"]));
        let under = Roots::under(Path::new("/mnt/x"), Path::new("/shop/data/"));
        let mut found = Vec::new();
        names(&under.root, "", &mut found);
        assert_eq!((found, under.paths), lists(&["/shop/data=/mnt/x"], &["/shop/data"]));
    }
}
