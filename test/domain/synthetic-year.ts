import { seededRandom, type Random } from '../support/random.ts';

export const HOURS_A_DAY = 24;
export const HOURS_A_WEEK = 7 * HOURS_A_DAY;
export const DAYS_A_YEAR = 364;

/** How a key is used over the week; the hour is local time, which daylight saving moves against UTC. */
export type KeyHabit = {
  readonly name: string;
  /** Requests an hour at its busiest, in the first week. */
  readonly peak: number;
  /** Share of the peak in an hour of the week, Monday 0:00 first. */
  readonly shape: (hourOfWeek: number, day: number) => number;
  readonly growthAWeek: number;
  /** Of the logarithm of an hour's and of a day's noise, on top of what Poisson adds. */
  readonly noise: number;
  readonly noiseOfDay: number;
  readonly keepsHolidays: boolean;
};

/** Public holidays of a year, as days from its first Monday. */
const HOLIDAYS: ReadonlySet<number> = new Set([0, 101, 104, 130, 142, 153, 275, 357, 358, 359]);
const SUMMER_TIME = { fromDay: 83, toDay: 300 };

const office = (hour: number): number => {
  const [day, ofDay] = [Math.floor(hour / HOURS_A_DAY), hour % HOURS_A_DAY];
  const awake = Math.max(0.02, Math.sin(((ofDay - 6) / 14) * Math.PI));
  return (ofDay < 6 || ofDay > 20 ? 0.02 : awake) * (day >= 5 ? 0.15 : 1);
};
const consumer = (hour: number): number =>
  0.35 + 0.65 * Math.sin((((hour % HOURS_A_DAY) - 8) / 24) * 2 * Math.PI) ** 2 * (hour >= 5 * HOURS_A_DAY ? 1.3 : 1);

/** Seven kinds of keys. */
export const HABITS: readonly KeyHabit[] = [
  { name: 'office', peak: 2000, shape: office, growthAWeek: 0.01, noise: 0.15, noiseOfDay: 0.1, keepsHolidays: true },
  { name: 'consumer', peak: 20_000, shape: consumer, growthAWeek: 0.02, noise: 0.1, noiseOfDay: 0.05, keepsHolidays: false },
  { name: 'machine', peak: 600, shape: () => 1, growthAWeek: 0, noise: 0.05, noiseOfDay: 0.05, keepsHolidays: false },
  { name: 'bursty', peak: 1500, shape: consumer, growthAWeek: 0.01, noise: 0.5, noiseOfDay: 0.2, keepsHolidays: false },
  {
    name: 'weekly job',
    peak: 5000,
    shape: (hour) => (hour === 27 ? 1 : 0),
    growthAWeek: 0,
    noise: 0.1,
    noiseOfDay: 0.05,
    keepsHolidays: false,
  },
  { name: 'sparse', peak: 4, shape: office, growthAWeek: 0, noise: 0.5, noiseOfDay: 0.1, keepsHolidays: true },
  {
    name: 'monthly job',
    peak: 5000,
    shape: (hour, day) => (day % 30 === 3 && hour % HOURS_A_DAY === 2 ? 1 : 0),
    growthAWeek: 0,
    noise: 0.1,
    noiseOfDay: 0.05,
    keepsHolidays: false,
  },
];

/** A year of a key, hour by hour. The same seed gives the same year. */
export function syntheticYear(habit: KeyHabit, seed: number): readonly number[] {
  const random = seededRandom(seed);
  const ofDays = Array.from({ length: DAYS_A_YEAR }, () => Math.exp(habit.noiseOfDay * normal(random)));
  return Array.from({ length: DAYS_A_YEAR * HOURS_A_DAY }, (_, hour) => {
    const day = Math.floor(hour / HOURS_A_DAY);
    const summer = day >= SUMMER_TIME.fromDay && day < SUMMER_TIME.toDay ? 1 : 0;
    const local = (hour + summer) % HOURS_A_WEEK;
    const holiday = habit.keepsHolidays && HOLIDAYS.has(day) ? 0.15 : 1;
    const growth = (1 + habit.growthAWeek) ** (hour / HOURS_A_WEEK);
    const noise = (ofDays[day] ?? 1) * Math.exp(habit.noise * normal(random));
    const rate = habit.peak * habit.shape(local, day) * holiday * growth * noise;
    return poisson(rate, random);
  });
}

/** A sum of twelve evens is close enough to a bell; real noise has longer tails: hence the wider tenth. */
function normal(random: Random): number {
  let sum = -6;
  for (let index = 0; index < 12; index++) sum += random.between(0, 1_000_000) / 1_000_000;
  return random.chance(0.1) ? 2 * sum : sum;
}

/** Knuth's way for small rates, the bell for large ones. */
function poisson(rate: number, random: Random): number {
  if (rate > 50) return Math.max(0, Math.round(rate + Math.sqrt(rate) * normal(random)));
  const limit = Math.exp(-rate);
  let product = 1;
  for (let count = 0; ; count++) {
    product *= random.between(0, 1_000_000) / 1_000_000;
    if (product <= limit) return count;
  }
}
