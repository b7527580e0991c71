const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const TWO_DIGITS = Array.from({ length: 60 }, (_, number) => String(number).padStart(2, '0'));

/**
 * Makes a `Date.prototype.toISOString` for moments many of which are of the same day, as those of a series or a page are: the day is written once, which takes a tenth of the time. Throws a RangeError
 * for a date that is none.
 */
export function createUtcText(): (moment: Date) => string {
  let lastDay = Number.NaN;
  let date = '';
  return (moment) => {
    const epochMs = moment.getTime();
    const day = Math.floor(epochMs / DAY);
    if (day !== lastDay) {
      date = new Date(day * DAY).toISOString().slice(0, -'00:00:00.000Z'.length);
      lastDay = day;
    }
    const dayMs = epochMs - day * DAY;
    const hours = TWO_DIGITS[Math.floor(dayMs / HOUR)];
    const minutes = TWO_DIGITS[Math.floor(dayMs / MINUTE) % 60];
    const seconds = TWO_DIGITS[Math.floor(dayMs / SECOND) % 60];
    const ms = dayMs % SECOND;
    return `${date}${hours}:${minutes}:${seconds}.${ms < 10 ? '00' : ms < 100 ? '0' : ''}${ms}Z`;
  };
}
