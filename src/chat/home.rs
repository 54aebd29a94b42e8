//! Which node is a session's home (C15).

use super::types::SessionId;
use crate::ring::Member;
use crate::ring::sabotage::{self, Bug};

/// The member that answers the session's reads and watches over it; `None` only in an empty view.
///
/// Rendezvous hashing, "highest random weight" (Thaler & Ravishankar, 1998): every member has a weight for every
/// session and the highest wins, so that when a member goes, only its own sessions move, and evenly. The weight goes by
/// the node's id, not its incarnation: sessions come back to a node that comes back.
pub fn home(session: SessionId, members: &[Member]) -> Option<Member> {
    members
        .iter()
        .copied()
        .max_by_key(|member| (weight(session, *member), member.id))
}

fn weight(session: SessionId, member: Member) -> u64 {
    let id = sabotage::or(u64::from(member.id.0), Bug::HomeByIncarnation, member.incarnation.0);
    let high = (session.0 >> 64) as u64;
    let low = session.0 as u64;
    mix(low ^ mix(high ^ mix(id)))
}

/// The step of SplitMix64 (Steele, Lea & Flood, 2014): every bit of the input moves about half of the output's.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Incarnation, NodeId};

    fn members(ids: &[u16]) -> Vec<Member> {
        let member = |&id: &u16| Member {
            id: NodeId(id),
            incarnation: Incarnation(u64::from(id) * 77),
        };
        ids.iter().map(member).collect()
    }

    fn home_id(session: u128, ids: &[u16]) -> u16 {
        home(SessionId(session), &members(ids)).unwrap().id.0
    }

    #[test]
    fn c15_nobody_is_at_home_in_an_empty_view() {
        assert_eq!(home(SessionId(1), &[]), None);
    }

    #[test]
    fn c15_neither_order_nor_incarnation_matter() {
        for session in 0..1000 {
            assert_eq!(home_id(session, &[1, 2, 3, 4]), home_id(session, &[3, 1, 4, 2]));
        }
        let mut again = members(&[1, 2, 3]);
        again[1].incarnation = Incarnation(1);
        assert_eq!(
            home(SessionId(5), &again).unwrap().id,
            home(SessionId(5), &members(&[1, 2, 3])).unwrap().id
        );
    }

    #[test]
    fn c15_when_a_member_goes_only_its_own_sessions_move_and_to_all_others() {
        let mut moved = [0; 5];
        for session in 0..4000 {
            let before = home_id(session, &[1, 2, 3, 4]);
            let after = home_id(session, &[1, 3, 4]);
            if before == 2 {
                moved[usize::from(after)] += 1;
            } else {
                assert_eq!(after, before);
            }
        }
        assert_eq!(moved[2], 0);
        assert!(moved[1] > 250 && moved[3] > 250 && moved[4] > 250, "{moved:?}");
    }

    #[test]
    fn c15_all_nodes_of_all_versions_compute_the_same() {
        let session = |n: u128| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let homes: Vec<u16> = (0..16).map(|n| home_id(session(n), &[1, 2, 3, 4])).collect();
        // Computed apart from this code, in Python, from the definition of SplitMix64.
        assert_eq!(homes, [1, 3, 3, 3, 3, 3, 4, 4, 1, 2, 3, 2, 3, 2, 3, 3]);
    }
}
