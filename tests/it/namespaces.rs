//! Callers in namespaces of their own: what they name, and who they are, is theirs.

mod user;
