//! The service, made to do what a sequence says, and compared with the model after each step.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vmlockd::keep::Inherited;

use super::answer::Answer;
use super::calls::Calls;
use super::instance::ServiceInstance;
use super::lock_numbers::LockNumbers;
use super::op::{Disk, Op, Vm};
use super::reference::ReferenceModel;
use super::scenario::Scenario;
use super::view::View;

/// The service, and what its callers have of it.
#[derive(Debug)]
pub(super) struct Harness<'s> {
    scenario: &'s Scenario,
    /// `None` between two.
    life: Option<ServiceInstance>,
    calls: Calls,
    numbers: LockNumbers,
    /// How long it may take until the service is as the model.
    patience: Duration,
}

impl<'s> Harness<'s> {
    pub(super) fn begin(scenario: &'s Scenario, patience: Duration) -> Self {
        scenario.forget_all();
        let life = Some(ServiceInstance::begin(&scenario.runtime_dir(), Inherited::default()));
        let (calls, numbers) = (Calls::default(), LockNumbers::default());
        Self { scenario, life, calls, numbers, patience }
    }

    fn life(&self) -> &ServiceInstance {
        self.life.as_ref().expect("it is missing only while it is exchanged")
    }

    /// Performs a step, and waits until the service has the state of the model after that step.
    pub(super) fn step(
        &mut self,
        number: usize,
        op: &Op,
        reference: &ReferenceModel,
        expected: &[(usize, Answer)],
    ) -> Result<(), String> {
        if let Op::Restart(dying) = op {
            self.restart(dying)?;
        } else {
            let life = self.life.as_ref().expect("as above");
            let service = life.service.clone();
            self.calls.begin(number, op, &life.runtime, service, self.scenario, &self.numbers);
        }
        let since = Instant::now();
        let mut answers = BTreeMap::new();
        loop {
            let life = self.life.as_ref().expect("as above");
            life.runtime.block_on(life.quiet());
            answers.extend(self.calls.collect(&life.runtime, &life.service, self.scenario));
            match self.compare(reference, expected, &answers) {
                Ok(numbers) => return self.numbers.learn(reference, &numbers),
                Err(_) if since.elapsed() < self.patience => {
                    self.life().runtime.block_on(ServiceInstance::look_again());
                }
                Err(difference) => return Err(difference),
            }
        }
    }

    /// Kills the service, has some machines die, and asks the kernel all the time.
    fn restart(&mut self, dying: &[Vm]) -> Result<(), String> {
        let before = self.scenario.bytes();
        let unchanged = |when: &str| {
            let now = self.scenario.bytes();
            let text = || format!("{when} the bytes are {now:?}, and were {before:?}");
            if now == before { Ok(()) } else { Err(text()) }
        };
        let inherited = self.life.take().expect("as above").kill();
        self.calls.forget();
        let alone = unchanged("with no service there");
        for vm in dying {
            self.calls.lifelines.remove(vm);
        }
        self.life = Some(ServiceInstance::begin(&self.scenario.runtime_dir(), inherited));
        alone?;
        if dying.is_empty() { unchanged("with the service just back") } else { Ok(()) }
    }

    /// Compares answers and state; where they are the same, each lock's number.
    fn compare(
        &self,
        reference: &ReferenceModel,
        expected: &[(usize, Answer)],
        answers: &BTreeMap<usize, Answer>,
    ) -> Result<BTreeMap<(Vm, Disk), u64>, String> {
        for (call, expected) in expected {
            match answers.get(call) {
                Some(answer) if answer == expected => {}
                Some(answer) => {
                    return Err(format!(
                        "what step {call} asked for is answered\n  {answer}\nand should be\n  {expected}"
                    ));
                }
                None => {
                    return Err(format!(
                        "what step {call} asked for is not answered, and should be\n  {expected}"
                    ));
                }
            }
        }
        for (call, answer) in answers {
            if !expected.iter().any(|(number, _)| number == call) {
                return Err(format!(
                    "what step {call} asked for is answered\n  {answer}\nand should wait"
                ));
            }
        }
        let should = View::of_model(reference, self.scenario);
        let (is, numbers) = View::of_service(self.life(), self.scenario);
        if is == should {
            return Ok(numbers);
        }
        Err(format!("the service has\n{is}and the model\n{should}"))
    }
}
